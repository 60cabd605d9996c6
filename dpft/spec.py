"""What a run is asked to do: frozen, validated values, in parts that separate guarantee from speed.

Everything that can change ε is in :class:`PrivacySpec` (and in the batch size and epochs of
:class:`OptimisationSpec`, from which the sample rate and the number of steps are derived once, by
``privacy.plan.make_plan``). :class:`HardwareSpec` can only change how long a run takes.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

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
]

SCHEMA_VERSION = "1.0"

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Frozen(BaseModel):
    """Base of all specs: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DataSpec(Frozen):
    """Which examples.

    Attributes:
        dataset: a name in ``tables.TASKS``.
        data_dir: folder in the GLUE layout (``SST-2/train.tsv`` …); None for the hub, or a built-in dataset.
        max_length: tokens per example, special tokens included; longer ones are truncated.
    """

    dataset: str
    data_dir: str | None = None
    max_length: Annotated[int, Field(ge=8)] = 128

    @model_validator(mode="after")
    def _known(self) -> DataSpec:
        TASKS.check(self.dataset)
        return self


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
            (``privacy.plan.derive_schedule`` decides, once).
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
        precision: of matrix products in the model; clipping and noise never go below float32 and float64.
        num_threads: CPU threads; None leaves the libraries' choice.
        checkpoint_every: steps between checkpoints; 0 for none but when the run is stopped; None for about
            twenty in a run, a minute apart or more (``training.keeper.Cadence`` decides).
    """

    micro_batch_tokens: Annotated[int, Field(ge=1)] = 2048
    precision: Literal["fp32", "bf16"] = "fp32"
    num_threads: Annotated[int, Field(ge=1)] | None = None
    checkpoint_every: Annotated[int, Field(ge=0)] | None = None


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
        if self.privacy.enabled and self.hardware.precision == "bf16":
            raise PrivacyError(
                "precision bf16 rounds an example's gradient by the padding that a longer neighbour brings "
                "(measured: 1% of the clipping norm)",
                hint="give --precision fp32, or --no-dp",
            )
        return self

    @model_validator(mode="after")
    def _finite(self) -> RunSpec:
        if not math.isfinite(self.optimisation.learning_rate * self.optimisation.epochs):
            raise UsageError(
                "learning rate × epochs is not finite", hint="give finite --learning-rate and --epochs"
            )
        return self
