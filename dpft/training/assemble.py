"""Data, tokenizer, model and mode of one run, put together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpft.data.own_files import task_of
from dpft.data.prepare import PreparedData, prepare
from dpft.data.task import Task
from dpft.engines import ordinary
from dpft.engines.base import Engine, Session
from dpft.errors import UsageError
from dpft.privacy.clipping import Clipper
from dpft.runs import paths
from dpft.spec import DataSpec, ModelSpec, RunSpec
from dpft.tables import ENGINES, MODES
from dpft.training.features import Features
from dpft.training.observer import Observer
from dpft.training.tokens import check_tokens
from dpft.tuning.base import BaseIdentity, identify, load_model, load_tokenizer, locate
from dpft.tuning.mode import Mode

__all__ = ["Assembled", "Tuned", "assemble", "open_session", "prepare_dataset", "tuned_model"]


@dataclass(frozen=True)
class Assembled:
    """Everything a run trains with.

    Attributes:
        task: columns, labels, metrics.
        data: prepared splits.
        model: with its trainable parameters marked, in eval mode (dropout off) but for LoRA's own dropout.
        tokenizer: the base model's.
        mode: the fine-tune mode.
        base: what the base model is.
        parameters: the trainable parameters by name.
        features: what the frozen encoder says of the training examples, where only its head trains.
    """

    task: Task
    data: PreparedData
    model: Any
    tokenizer: Any
    mode: Mode
    base: BaseIdentity
    parameters: dict[str, nn.Parameter]
    features: Features | None = None

    @property
    def pad_token_id(self) -> int:
        """What fills a batch's short rows."""
        return int(self.tokenizer.pad_token_id or 0)


def prepare_dataset(
    data: DataSpec, model: ModelSpec, tokenizer: Any = None, *, task: Task | None = None
) -> PreparedData:
    """Tokenise ``data`` for ``model``, or find it in the cache.

    Args:
        data: which examples.
        model: whose tokenizer.
        tokenizer: the same, where it is loaded already.
        task: instead of the one that ``data`` names.

    Raises:
        DataError: rows that cannot be used.
        HubError: data or tokenizer out of reach.
    """
    tokenizer = tokenizer if tokenizer is not None else load_tokenizer(model)
    return prepare(
        task if task is not None else task_of(data),
        tokenizer,
        tokenizer_id=locate(model).public_id,
        max_length=data.max_length,
        cache_dir=paths.cache(),
        data_dir=Path(data.data_dir) if data.data_dir is not None else None,
    )


def assemble(spec: RunSpec, observer: Observer) -> Assembled:
    """Load and prepare; mark what trains.

    Raises:
        DpftError: of the kind that says what cannot be loaded, and why.
    """
    mode: Mode = MODES.get(spec.tuning.mode)
    tokenizer = load_tokenizer(spec.model)
    observer.working(f"preparing {spec.data.dataset}")
    data = prepare_dataset(spec.data, spec.model, tokenizer)
    observer.working(f"loading {spec.model.checkpoint}")
    tuned = tuned_model(spec, data.task.labels, tokenizer)
    check_tokens(data, tuned.model, tokenizer)
    return Assembled(data.task, data, tuned.model, tokenizer, mode, tuned.base, tuned.parameters)


@dataclass(frozen=True)
class Tuned:
    """A model in its mode, in eval mode (dropout off) but for LoRA's own dropout."""

    model: Any
    base: BaseIdentity
    parameters: dict[str, nn.Parameter]


def tuned_model(spec: RunSpec, labels: Sequence[str], tokenizer: Any) -> Tuned:
    """Load the base model as a classifier of ``labels``, and mark what trains.

    Raises:
        DpftError: of the kind that says what cannot be loaded, and why.
    """
    mode: Mode = MODES.get(spec.tuning.mode)
    torch.manual_seed(spec.optimisation.seed)  # of the new head and adapters; noise and samples never use it
    base = load_model(spec.model, labels, tokenizer.pad_token_id)
    _check_lengths(base, spec)
    identity = identify(base, spec.model)
    model = mode.apply(base, spec.tuning).eval()
    if spec.tuning.lora_dropout > 0:
        for name, module in model.named_modules():
            if ".lora_dropout." in name:
                module.train()
    return Tuned(model, identity, {name: p for name, p in model.named_parameters() if p.requires_grad})


def open_session(
    spec: RunSpec, assembled: Assembled, clipper: Clipper | None
) -> AbstractContextManager[Session]:
    """The engine at work on the model; the ordinary one where nothing bounds an example's contribution."""
    model = assembled.model if assembled.features is None else assembled.features.head
    if clipper is None:
        return ordinary.session(model, assembled.parameters, spec.hardware.precision)
    engine: Engine = ENGINES.get(spec.privacy.engine)
    return engine.session(model, assembled.parameters, clipper, spec.hardware.precision)


def _check_lengths(model: Any, spec: RunSpec) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    prepended = spec.tuning.num_prepend_tokens or 0
    if isinstance(limit, int) and 0 < limit < spec.data.max_length + prepended:
        raise UsageError(
            f"--max-length {spec.data.max_length} with {prepended} virtual tokens exceeds "
            f"the model's {limit} positions",
            hint=f"give a --max-length of at most {limit - prepended}",
        )
