"""What a run is asked to do: frozen, validated values, in parts that separate guarantee from speed.

Everything that can change ε is in :class:`PrivacySpec` (and in the batch size and epochs of
:class:`OptimisationSpec`, from which the sample rate and the number of steps are derived once, by
``privacy.plan.make_plan``). :class:`HardwareSpec` can only change how long a run takes.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dpft.errors import PrivacyError, UsageError
from dpft.tables import CLIPPERS, ENGINES, MODES, TASKS

__all__ = [
    "SCHEMA_VERSION",
    "DataSpec",
    "Frozen",
    "HardwareSpec",
    "ModelSpec",
    "OptimisationSpec",
    "PrivacySpec",
    "RunSpec",
    "TuningSpec",
    "check_keeps_apart",
    "check_own_data",
]

SCHEMA_VERSION = "1.0"

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Frozen(BaseModel):
    """Base of all specs: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DataSpec(Frozen):
    """Which examples.

    Attributes:
        dataset: a name in ``tables.TASKS``; any other name where there is a ``data_file``.
        data_dir: folder in the GLUE layout (``SST-2/train.tsv`` …); None for the hub, or a built-in dataset.
        data_file: training rows of the user's own: CSV, TSV, JSON Lines or Parquet.
        validation_file: rows to score; None to set some of ``data_file`` aside.
        text_columns: one or two columns of a ``data_file``, in the order they are tokenised.
        label_column: likewise.
        labels: label names of a ``data_file``, in the order of their integers; declared, never learnt.
        max_length: tokens per example, special tokens included; longer ones are truncated.
    """

    dataset: str
    data_dir: str | None = None
    data_file: str | None = None
    validation_file: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    labels: tuple[str, ...] = ()
    max_length: Annotated[int, Field(ge=8)] = 128

    @model_validator(mode="before")
    @classmethod
    def _columns(cls, given: Any) -> Any:
        """Fill in the columns of a data file, so that a stored spec says which they were."""
        if not isinstance(given, dict) or given.get("data_file") is None:
            return given
        usual = {"text_columns": ("text",), "label_column": "label"}
        return {**given, **{name: given.get(name) or value for name, value in usual.items()}}

    @model_validator(mode="after")
    def _known(self) -> DataSpec:
        if self.data_file is not None:
            check_own_data(self)
        else:
            TASKS.check(self.dataset)
            odd = ("validation_file", "text_columns", "label_column", "labels")
            if any(getattr(self, name) for name in odd):
                raise UsageError(
                    "columns, labels and a validation file are given for no data file",
                    hint="give --data-file, or leave them out",
                )
        return self


_OWN_NAME = re.compile(r"\w[\w.+-]{0,39}")
_LONGEST_LABEL = 100
_LABEL = re.compile(rf"(?![/~\\]).{{1,{_LONGEST_LABEL}}}")  # no more than a name: manifests hold no paths


def check_own_data(data: DataSpec) -> None:
    """Refuse what a data file of the user's own cannot be read with.

    Raises:
        UsageError: a name that is a built-in dataset's or cannot name a folder, columns that are not one or
            two different ones beside the label's, or labels that are not two or more different short names.
    """
    name, columns, labels = data.dataset, data.text_columns, data.labels
    if name in TASKS:
        raise UsageError(
            f"{name!r} is a built-in dataset, not a name for a file", hint=f"give it another: -d my-{name}"
        )
    if not _OWN_NAME.fullmatch(name) or ".." in name or name.endswith("."):
        raise UsageError(
            f"{name!r} cannot name a dataset",
            hint="give -d with 1 to 40 letters, digits, '.', '_', '+' or '-', a letter or digit first",
        )
    if data.data_dir is not None:
        raise UsageError("--data-file and --data-dir exclude each other", hint="give one of them")
    if data.validation_file == data.data_file:
        raise UsageError(
            "--validation-file is the training file: it would score what was learnt by heart",
            hint="give other rows, or leave it out to have a tenth set aside",
        )
    if len(columns) > 2:
        raise UsageError(f"{len(columns)} text columns are given", hint="give --text-column once or twice")
    if len({*columns, data.label_column}) != len(columns) + 1:
        raise UsageError(
            f"a column is given twice: {', '.join((*columns, str(data.label_column)))}",
            hint="each --text-column and the --label-column are different columns",
        )
    if not 2 <= len(labels) == len(set(labels)):
        shown = f": {', '.join(labels)}" if labels else ""
        raise UsageError(
            f"labels must be 2 or more different names, not {len(labels)}{shown}",
            hint="name all labels, in the order of their integers: --labels negative,positive",
        )
    for label in labels:
        if not (_LABEL.fullmatch(label) and label.isprintable() and label == label.strip()):
            raise UsageError(
                f"{label[:_LONGEST_LABEL]!r} cannot name a label",
                hint=f"use 1 to {_LONGEST_LABEL} printable characters, not '/', '~', '\\' or a space first",
            )


class ModelSpec(Frozen):
    """Which pretrained model.

    Attributes:
        checkpoint: a hub id, a local path, or ``builtin:NAME``.
        revision: pins a hub commit.
        data_overlap: of what it was pretrained on with the private examples, as the user declares it.
    """

    checkpoint: str = "prajjwal1/bert-tiny"
    revision: str | None = None
    data_overlap: Literal["none", "possible", "unknown"] = "unknown"


class TuningSpec(Frozen):
    """Which parameters train, and how they are injected."""

    mode: str
    lora_r: Annotated[int, Field(ge=1)] = 8
    lora_alpha: PositiveFloat = 16.0
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    num_prepend_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _known(self) -> TuningSpec:
        MODES.check(self.mode)
        return self


class PrivacySpec(Frozen):
    """What is promised. Either ``target_epsilon`` or ``noise_multiplier`` is given when enabled.

    Attributes:
        enabled: DP-SGD, or ordinary training.
        target_epsilon: ε to calibrate the noise multiplier for, never exceeded.
        target_delta: δ; None means 1/(2n), n being the number of training examples (or ``public_n``).
        public_n: a public estimate N of n, where n itself is private: sample rate, steps and δ then follow
            from N alone, and n is told nowhere.
        noise_multiplier: σ, the noise's standard deviation in units of the clipping norm.
        max_grad_norm: clipping norm C, the L2 bound of one example's contribution.
        clipping: a name in ``tables.CLIPPERS``.
        engine: a name in ``tables.ENGINES``; how clipped sums are computed.
        budget_cap: ε that all runs on the same data may spend together; None for no limit. A run that would
            pass it is refused, and so is one without privacy.
    """

    enabled: bool = True
    target_epsilon: PositiveFloat | None = 8.0
    target_delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    public_n: Annotated[int, Field(ge=1)] | None = None
    noise_multiplier: PositiveFloat | None = None
    max_grad_norm: PositiveFloat = 1.0
    clipping: str = "flat"
    engine: str = "dpft"
    budget_cap: PositiveFloat | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PrivacySpec:
        CLIPPERS.check(self.clipping)
        ENGINES.check(self.engine)
        if self.enabled and (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise UsageError(
                "private training needs exactly one of a target epsilon and a noise multiplier",
                hint="give --target-epsilon or --noise-multiplier, not both",
            )
        if self.budget_cap is not None and not self.enabled:
            raise PrivacyError(
                f"a run without privacy cannot keep to a budget cap of ε {self.budget_cap:g}",
                hint="train with differential privacy, or leave out --budget-cap",
            )
        return self


class OptimisationSpec(Frozen):
    """How the released gradients are used.

    Attributes:
        learning_rate: peak, of AdamW.
        epochs: passes over (in expectation) all examples.
        batch_size: expected logical batch; None for 1024, or a sixteenth of the examples where that is less
            (``privacy.schedule.derive_schedule`` decides, once).
        weight_decay: of AdamW.
        warmup_fraction: of the steps.
        seed: of initialisation, and of data order without privacy.
    """

    learning_rate: PositiveFloat
    epochs: PositiveFloat = 3.0
    batch_size: Annotated[int, Field(ge=1)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    seed: int = 0


class HardwareSpec(Frozen):
    """Speed only: nothing here may change ε or, but for rounding, the result.

    Attributes:
        micro_batch_tokens: tokens (padding included) that go through the model at once.
        precision: of matrix products in the model; auto is settled before a run is recorded. Clipping and
            noise never go below float32 and float64.
        num_threads: CPU threads; None leaves the libraries' choice.
        checkpoint_every: steps between checkpoints; 0 for none but when the run is stopped; None for about
            twenty in a run, a minute apart or more (``training.keeper.Cadence`` decides).
    """

    micro_batch_tokens: Annotated[int, Field(ge=1)] = 2048
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_threads: Annotated[int, Field(ge=1)] | None = None
    checkpoint_every: Annotated[int, Field(ge=0)] | None = None


def check_keeps_apart(privacy: PrivacySpec, precision: str) -> None:
    """Refuse a precision at which an engine lets others decide how an example's gradient is rounded.

    Raises:
        PrivacyError: a private run at bf16 by another engine than dpft's.
    """
    if privacy.enabled and precision == "bf16" and privacy.engine != "dpft":
        raise PrivacyError(
            f"engine {privacy.engine!r} at precision bf16 would round an example's gradient by the padding "
            "that a longer neighbour brings",
            hint="give --precision fp32, or --engine dpft",
        )


class RunSpec(Frozen):
    """One run: one dataset, one mode."""

    schema_version: str = SCHEMA_VERSION
    name: str | None = None
    tags: tuple[str, ...] = ()
    note: str = ""
    data: DataSpec
    model: ModelSpec
    tuning: TuningSpec
    privacy: PrivacySpec
    optimisation: OptimisationSpec
    hardware: HardwareSpec

    @model_validator(mode="after")
    def _examples_stay_apart(self) -> RunSpec:
        """Refuse what makes one example's gradient depend on another's presence."""
        if self.privacy.enabled and self.tuning.lora_dropout > 0:
            raise PrivacyError(
                f"lora_dropout is {self.tuning.lora_dropout}: with a known seed, one example more shifts "
                "the masks of all others",
                hint="leave --lora-dropout at 0 (the noise regularises already), or give --no-dp",
            )
        check_keeps_apart(self.privacy, self.hardware.precision)
        return self

    @model_validator(mode="after")
    def _finite(self) -> RunSpec:
        if not math.isfinite(self.optimisation.learning_rate * self.optimisation.epochs):
            raise UsageError(
                "learning rate × epochs is not finite", hint="give finite --learning-rate and --epochs"
            )
        return self
