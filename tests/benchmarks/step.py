"""What the private step costs: a logical batch with and without privacy, interleaved, on this machine.

    python -m tests.benchmarks.step --layers 2 --hidden 128 --mode full lora --pairs 7

Each pair takes one private and one ordinary step of the same examples, optimizer and noise included, in
random order; the ratio's median is what to quote. Process time is used: wall time on a shared machine says
little.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from dpft.engines import ordinary
from dpft.engines.base import MicroBatch
from dpft.privacy.clipping import FlatClipper
from dpft.privacy.noise import KeyStream
from dpft.spec import TuningSpec
from dpft.tables import ENGINES, MODES

VOCABULARY = 30522


def build(layers: int, hidden: int, mode: str) -> tuple[Any, dict[str, nn.Parameter]]:
    """A random BERT in ``mode``."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(2, hidden // 64),
        intermediate_size=4 * hidden,
    )
    entry = MODES.get(mode)
    tuning = TuningSpec(mode=mode, num_prepend_tokens=entry.defaults.num_prepend_tokens)
    model = entry.apply(BertForSequenceClassification(config), tuning).eval()
    return model, {name: p for name, p in model.named_parameters() if p.requires_grad}


def batches(examples: int, tokens: int, size: int) -> list[MicroBatch]:
    """Full-length random micro-batches."""
    made = []
    for _ in range(examples // size):
        ids = torch.randint(1, VOCABULARY, (size, tokens))
        made.append(
            MicroBatch(
                {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.randint(0, 2, (size,))
            )
        )
    return made


def one_step(
    session: Any,
    pieces: list[MicroBatch],
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    noise: KeyStream | None,
) -> float:
    """Process seconds of one step."""
    began = time.process_time()
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for piece in pieces:
        session.accumulate(piece, sums)
    for name, parameter in parameters.items():
        total = sums[name].double()
        if noise is not None:
            total += noise.normals(total.numel()).view_as(total)
        parameter.grad = (total / 512).float()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - began


def measure(layers: int, hidden: int, mode: str, engine: str, options: argparse.Namespace) -> list[float]:
    """Ratios of private to ordinary process time, one per pair."""
    model, parameters = build(layers, hidden, mode)
    pieces = batches(options.examples, options.tokens, options.micro_batch)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-6)
    noise = KeyStream()

    def private() -> float:
        with ENGINES.get(engine).session(model, parameters, FlatClipper(1.0), "fp32") as session:
            return one_step(session, pieces, parameters, optimizer, noise)

    def plain() -> float:
        with ordinary.session(model, parameters, "fp32") as session:
            return one_step(session, pieces, parameters, optimizer, None)

    private(), plain()
    ratios = []
    for _ in range(options.pairs):
        first = random.random() < 0.5
        a = private() if first else None
        b = plain()
        ratios.append((a if a is not None else private()) / b)
    return ratios


def main() -> None:
    """Print one row per mode and engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--mode", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--engine", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"L{options.layers} H{options.hidden}, {options.examples} x {options.tokens} tokens, "
        f"{options.threads} thread(s)"
    )
    for mode in options.mode:
        for engine in options.engine:
            ratios = measure(options.layers, options.hidden, mode, engine, options)
            low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
            print(f"{mode:18} {engine:8} {middle:5.2f}  ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
