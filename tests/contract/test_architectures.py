"""Every architecture, in every mode, with every clipper: what each example contributes is exact, or refused.

The truth is :mod:`dpft.engines.oracle`: one example alone and without padding, through plain autograd. The
tables below say what goes through the model one example at a time, and what is refused; all else is recorded
in a single backward pass. They are what the README's table shows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dpft.engines import oracle
from dpft.engines.bookkeeping import ENGINE
from dpft.errors import ModelError, PrivacyError, RoundingError
from dpft.privacy.clipping import FlatClipper
from dpft.tables import CLIPPERS, MODES
from dpft.training.preflight import check_engine, check_reachable, synthetic_batch
from tests import architectures, models
from tests.architectures import ARCHITECTURES, RELATIVE
from tests.unit.export import workshop

PREFIXES = ("prefix", "prefix+lora")
PROMPTS = ("soft-prompt", "soft-prompt+lora")
NO_PAST = "takes no keys and values from outside"
REFUSED = {
    **{
        (name, mode): NO_PAST
        for name in ("distilbert", "albert", "mpnet", "deberta-v2", "modernbert")
        for mode in PREFIXES
    },
    **{("t5", mode): "classifies with an encoder or a decoder, not with both" for mode in PREFIXES},
    **{("t5", mode): "takes no embeddings in place of token ids" for mode in PROMPTS},
}
"""What an architecture cannot do, and the reason given."""

ONE_BY_ONE = {
    ("mpnet", "full"),  # a table of relative positions, without a batch axis
    ("t5", "full"),  # likewise
    ("deberta-v2", "full"),  # relative positions go through the attention's own projections
    ("deberta-v2", "lora"),
    ("deberta-v2", "ia3"),
    ("deberta-v2", "soft-prompt+lora"),
}
"""What goes through the model one example at a time."""

TITLES = {
    "bert": "BERT",
    "roberta": "RoBERTa",
    "distilbert": "DistilBERT",
    "albert": "ALBERT",
    "electra": "ELECTRA",
    "mpnet": "MPNet",
    "deberta-v2": "DeBERTa-v2, v3",
    "modernbert": "ModernBERT",
    "gpt2": "GPT-2",
    "opt": "OPT",
    "gpt_neox": "GPT-NeoX, Pythia",
    "llama": "Llama",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 (text)",
    "t5": "T5 (encoder and decoder)",
}

CASES = [(name, mode) for name in ARCHITECTURES for mode in MODES.names() if (name, mode) not in REFUSED]


@functools.cache
def tuned(name: str, mode: str) -> tuple[Any, dict[str, nn.Parameter]]:
    return architectures.tuned(name, mode)


@functools.cache
def truth(name: str, mode: str) -> tuple[list[dict[str, Tensor]], Tensor]:
    model, parameters = tuned(name, mode)
    gradients = oracle.per_example_gradients(model, parameters, architectures.batch(name))
    return gradients, oracle.clipped_sum(gradients, 1.0)[1]


# -- exactness


@pytest.mark.parametrize("clipping", CLIPPERS.names())
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_norms_and_clipped_sums_equal_the_oracle(name: str, mode: str, clipping: str) -> None:
    model, parameters = tuned(name, mode)
    gradients, norms = truth(name, mode)
    clipper = CLIPPERS.get(clipping)(float(norms.median()))
    sums = models.zeros(parameters)
    with ENGINE.session(model, parameters, clipper, "fp32") as session:
        report = session.accumulate(architectures.batch(name), sums)
        slow = any("each example goes through the model on its own" in note for note in session.notes)
    torch.testing.assert_close(report.norms, norms, rtol=RELATIVE, atol=0)
    assert architectures.difference(sums, oracle.clipped_sum(gradients, clipper)[0]) <= RELATIVE
    assert slow == ((name, mode) in ONE_BY_ONE)


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(rows=st.integers(1, 6), length=st.integers(2, 12), seed=st.integers(0, 99))
def test_shapes_do_not_matter(name: str, mode: str, rows: int, length: int, seed: int) -> None:
    model, parameters = tuned(name, mode)
    batch = architectures.batch(name, rows, length, seed)
    assert architectures.error(model, parameters, batch, ENGINE.session) <= RELATIVE


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_the_preflight_agrees(name: str, mode: str) -> None:
    """Exact under more padding and in other company, and every trainable parameter is reached."""
    model, parameters = tuned(name, mode)
    batch = synthetic_batch(
        model,
        token_types=False,
        labels=architectures.LABELS,
        pad_token_id=int(ARCHITECTURES[name]["pad_token_id"]),
    )
    check_reachable(model, parameters, batch)
    notes = check_engine(ENGINE, model, parameters, batch)
    assert bool(notes) == ((name, mode) in ONE_BY_ONE)


@pytest.mark.parametrize(("name", "mode"), REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(name: str, mode: str) -> None:
    with pytest.raises(ModelError, match=REFUSED[name, mode]) as caught:
        architectures.tuned(name, mode)
    assert "\n" not in caught.value.message
    assert "--finetune-mode" in caught.value.hint


def test_a_decoder_with_a_soft_prompt_answers_at_the_end_of_each_text() -> None:
    model, _ = tuned("llama", "soft-prompt")
    batch = architectures.batch("llama")
    with torch.no_grad():
        together = model(**batch.inputs).logits
        alone = torch.cat([model(**oracle.alone(batch, row)).logits for row in range(len(batch))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_planted_answer_at_the_padding_is_caught() -> None:
    model, parameters = architectures.tuned("llama", "soft-prompt")
    model.base_model.score._forward_pre_hooks.clear()
    assert architectures.error(model, parameters, architectures.batch("llama"), ENGINE.session) > 0.1


# -- frozen parts, shared weights, checkpointing


@pytest.mark.parametrize("name", ["bert", "albert", "gpt2", "opt", "gemma", "qwen3"])
def test_frozen_parts_may_be_anywhere(name: str) -> None:
    model, parameters = architectures.tuned(name, "full")
    for number, parameter in enumerate(parameters.values()):
        parameter.requires_grad_(number % 3 == 0)
    some = {key: p for key, p in parameters.items() if p.requires_grad}
    assert architectures.error(model, some, architectures.batch(name), ENGINE.session) <= RELATIVE


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_tied_weights_have_the_gradient_of_all_their_uses(name: str) -> None:
    """Two layers of different depth, and of different kinds, with one weight."""
    model, _ = architectures.tuned(name, "full")
    layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 2)
    for (at, first), (_, second) in zip(layers[0].named_modules(), layers[1].named_modules(), strict=True):
        if at.endswith(("dense", "c_fc", "up_proj")):
            second.weight = first.weight
    parameters = dict(model.named_parameters())
    assert architectures.error(model, parameters, architectures.batch(name), ENGINE.session) <= RELATIVE


def checkpointing(name: str, mode: str, *, reentrant: bool) -> tuple[Any, dict[str, nn.Parameter], list[int]]:
    """A model that runs its layers again during backward, and a list that grows with each run of one."""
    silent = {
        "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "llama": {"attention_dropout": 0.0, "use_cache": False},
    }[name]
    model, parameters = architectures.tuned(name, mode, **silent)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.activation_checkpointing_enable({"use_reentrant": reentrant})
    runs: list[int] = []
    layers = next(m for m in base.modules() if isinstance(m, nn.ModuleList))
    inner = next(m for m in layers.modules() if isinstance(m, nn.Linear))
    inner.register_forward_hook(lambda *_: runs.append(1))
    return model.train(), parameters, runs


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_checkpointing_counts_nothing_twice(name: str, mode: str) -> None:
    """The forward pass is run again during backward; what it shows then was recorded already."""
    model, parameters, runs = checkpointing(name, mode, reentrant=False)
    batch = architectures.batch(name)
    with ENGINE.recording(model, parameters, FlatClipper(1.0), "fp32") as session:
        session.accumulate(batch, models.zeros(parameters))
    assert len(runs) == 2  # it was really run again
    assert architectures.error(model, parameters, batch, ENGINE.recording) <= RELATIVE
    assert architectures.error(model, parameters, batch, ENGINE.session) <= RELATIVE


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_checkpointing_at_bf16_is_refused_by_name(mode: str) -> None:
    """What is computed again during backward, nothing keeps from being rounded by an example's company."""
    model, parameters, _ = checkpointing("bert", mode, reentrant=False)
    sums = models.zeros(parameters)
    with (
        ENGINE.session(model, parameters, FlatClipper(1.0), "bf16") as session,
        pytest.raises(RoundingError, match="activation checkpointing") as caught,
    ):
        session.accumulate(architectures.batch("bert"), sums)
    assert caught.value.hint == "give --precision fp32"
    assert not any(value.any() for value in sums.values())


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_reentrant_checkpointing_is_refused(name: str) -> None:
    model, parameters, _ = checkpointing(name, "full", reentrant=True)
    with (
        ENGINE.session(model, parameters, FlatClipper(1.0), "fp32") as session,
        pytest.raises(PrivacyError, match="reentrant") as caught,
    ):
        session.accumulate(architectures.batch(name), models.zeros(parameters))
    assert "use_reentrant=False" in caught.value.hint
    model, parameters, _ = checkpointing(name, "lora", reentrant=True)  # there, nothing gets a gradient
    with pytest.raises(ModelError, match=r"does not depend on .*lora_A"):
        check_reachable(model, parameters, architectures.batch(name))


# -- saved, restored, exported


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("architectures")

    @functools.cache
    def folder(name: str) -> Path:
        return architectures.checkpoint(name, root / name)

    return folder


EXPORTS = [
    ("full", "merged"),
    ("lora", "peft"),
    ("lora", "merged"),
    ("ia3", "merged"),
    ("prefix", "peft"),
    ("soft-prompt+lora", "peft"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "format_name"),
    [(name, mode, form) for name in ARCHITECTURES for mode, form in EXPORTS if (name, mode) not in REFUSED],
)
def test_what_is_trained_is_saved_restored_and_exported(
    name: str, mode: str, format_name: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """Every export is loaded afresh and its logits compared with the run's."""
    made = workshop.make_run(tmp_path / "home", workshop.make_spec(folders(name), mode, dataset="sst2"))
    report = made.export(tmp_path / "export", format_name)
    assert report.max_logit_difference <= (1e-4 if format_name == "merged" and mode != "full" else 1e-5)


# -- what the README says


def test_the_readmes_table_is_what_ran() -> None:
    """`python -m tests.contract.test_architectures` prints it."""
    assert table() in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def table() -> str:
    """Architectures × modes in Markdown, from the tables above."""
    modes = MODES.names()
    lines = [f"| | {' | '.join(f'`{mode}`' for mode in modes)} |", "|---" * (len(modes) + 1) + "|"]
    how = dict.fromkeys(REFUSED, "–") | dict.fromkeys(ONE_BY_ONE, "slow")
    for name in ARCHITECTURES:
        cells = [how.get((name, mode), "✓") for mode in modes]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
