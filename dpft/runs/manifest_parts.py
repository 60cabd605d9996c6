"""The groups of a manifest, each checked on its own.

:mod:`dpft.runs.manifest` checks them against each other.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpft.errors import PrivacyError
from dpft.runs.quantities import Delta, Epsilon, NoiseMultiplier, SampleRate
from dpft.runs.schema import SCHEMA_VERSION
from dpft.runs.statement import SEVERAL_RUNS
from dpft.spec import Frozen
from dpft.tables import ACCOUNTANTS

__all__ = [
    "Adjacency",
    "BaseModelInfo",
    "Classification",
    "Data",
    "DataAccess",
    "Definition",
    "Event",
    "Evidence",
    "Guarantee",
    "Identity",
    "Mechanism",
    "Protection",
    "Randomness",
    "Release",
    "Sampling",
    "Setting",
    "Software",
    "TrainableParameter",
    "Tuning",
    "standard_releases",
    "validation_access",
]

Adjacency = Literal["add-or-remove-one", "replace-one"]
Classification = Literal["public", "dp", "unaccounted"]
Protection = Literal["dp", "public", "not protected", "local-only"]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
UtcTime = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")]

NOISE_FIELDS = (
    "clipping", "max_grad_norm", "sensitivity", "noise_multiplier", "expected_batch_size", "denominator",
    "empty_batch_rule", "steps_planned",
)  # fmt: skip


class Identity(Frozen):
    """Which run, made by what, when (UTC, ISO 8601)."""

    schema_version: Annotated[str, Field(pattern=r"^1\.\d+$")] = SCHEMA_VERSION
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    created: UtcTime
    tool: Text = "dpft"
    tool_version: Text


class Setting(Frozen):
    """Who is trusted with what, and what leaves them."""

    trust_model: Literal["central"] = "central"
    trusted: Text = "whoever runs the training is trusted with the examples"
    release: Literal["final-adapter", "checkpoints"] = "final-adapter"


class Definition(Frozen):
    """What two neighbouring datasets differ in.

    Attributes:
        unit: of privacy.
        adjacency: how neighbours differ.
        example: what one example is, in words ("one row of sst2/train: a sentence and its label").
        labels_private: labels are protected as part of the example.
    """

    unit: Literal["example"] = "example"
    adjacency: Adjacency = "add-or-remove-one"
    example: Text
    labels_private: Literal[True] = True


class Guarantee(Frozen):
    """What is claimed.

    Attributes:
        epsilon: ε of the steps really taken.
        delta: δ.
        delta_rule: how δ was chosen.
        target_epsilon: what the noise was calibrated for; ε is not above it.
        replace_one_epsilon: ε at the same δ if neighbours differ in one example's content.
        accountant: name in ``tables.ACCOUNTANTS`` that ε came from.
        second_accountant: name of the second opinion.
        second_epsilon: its ε, at the same δ.
    """

    epsilon: Epsilon
    delta: Delta
    delta_rule: Text
    target_epsilon: Epsilon | None = None
    replace_one_epsilon: Epsilon | None = None
    accountant: str
    second_accountant: str | None = None
    second_epsilon: Epsilon | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Guarantee:
        ACCOUNTANTS.check(self.accountant)
        if self.second_accountant is not None:
            ACCOUNTANTS.check(self.second_accountant)
        if (self.second_accountant is None) != (self.second_epsilon is None):
            raise PrivacyError("a second epsilon goes with its accountant", hint="give both, or neither")
        if self.target_epsilon is not None and not self.epsilon <= self.target_epsilon:
            raise PrivacyError(
                f"epsilon {self.epsilon} is above its target {self.target_epsilon}",
                hint="state the run without the target it missed, or take fewer steps",
            )
        return self


class TrainableParameter(Frozen):
    """Name and shape of one trained tensor."""

    name: Text
    shape: tuple[Count, ...]


class Mechanism(Frozen):
    """What ran. The fields of noise (``NOISE_FIELDS``) are for private runs only.

    Attributes:
        kind: in words.
        finetune_mode: name in ``tables.MODES``.
        engine: name in ``tables.ENGINES``.
        micro_batching: how logical batches went through the model.
        trainable_parameters: all of them.
        clipping: name in ``tables.CLIPPERS``.
        max_grad_norm: C.
        sensitivity: L2 bound of one example's contribution to a step's sum.
        clipping_stability: γ of a clipping formula that has one.
        clipping_groups: into how many groups the parameters are divided, each clipped by its own norm.
        noise_multiplier: standard deviation of the noise, in units of ``sensitivity``.
        expected_batch_size: B.
        denominator: what sums are divided by.
        empty_batch_rule: what an empty batch does.
        steps_planned: of the schedule.
    """

    kind: Text
    finetune_mode: Text
    engine: Text
    micro_batching: Text = "logical batches are cut under a token budget, which changes rounding only"
    trainable_parameters: tuple[TrainableParameter, ...]
    clipping: Text | None = None
    max_grad_norm: PositiveNumber | None = None
    sensitivity: PositiveNumber | None = None
    clipping_stability: PositiveNumber | None = None
    clipping_groups: PositiveCount | None = None
    noise_multiplier: NoiseMultiplier | None = None
    expected_batch_size: PositiveCount | None = None
    denominator: Text | None = None
    empty_batch_rule: Text | None = None
    steps_planned: PositiveCount | None = None

    def missing_noise_fields(self) -> list[str]:
        """Those of ``NOISE_FIELDS`` that are not given."""
        return [name for name in NOISE_FIELDS if getattr(self, name) is None]

    def present_noise_fields(self) -> list[str]:
        """Those of ``NOISE_FIELDS`` that are given."""
        return [name for name in NOISE_FIELDS if getattr(self, name) is not None]


class Sampling(Frozen):
    """What the accountant assumes of the batches, and what ran.

    Attributes:
        assumed: the sampler the accountant assumes.
        actual: the sampler that ran, in words.
        assumptions_hold: whether ε may be claimed.
        why_not: the reason, exactly where it may not.
    """

    assumed: Text = "poisson"
    actual: Text
    assumptions_hold: bool
    why_not: Text | None = None

    @model_validator(mode="after")
    def _reasoned(self) -> Sampling:
        if self.assumptions_hold != (self.why_not is None):
            raise PrivacyError(
                f"assumptions_hold is {self.assumptions_hold} and why_not is {self.why_not!r}",
                hint="give the reason exactly where the assumptions do not hold",
            )
        return self


class Event(Frozen):
    """A composed mechanism that was executed: all that ε is recomputed from, given δ.

    Attributes:
        sample_rate: q, in (0, 1].
        noise_multiplier: of each step.
        steps: how often, at least 1.
        adjacency: what neighbours the accountant is asked about.
    """

    sample_rate: SampleRate
    noise_multiplier: NoiseMultiplier
    steps: PositiveCount
    adjacency: Adjacency = "add-or-remove-one"


class DataAccess(Frozen):
    """Another use of data: a name ("tokenizer", "truncation", "evaluation" …), its cost class, and why."""

    access: Text
    classification: Classification
    detail: str = ""


class Tuning(Frozen):
    """Other runs on the same data.

    Attributes:
        ledger: whether spending is counted over runs.
        runs_on_this_data: counted, this one included.
        composed_epsilon: ε of all of them together.
        selection_metric: by what this run was chosen, if it was.
        selection_split: on which split.
        warning: what composition means.
    """

    ledger: Text = "not kept by this version"
    runs_on_this_data: PositiveCount | None = None
    composed_epsilon: Epsilon | None = None
    selection_metric: Text | None = None
    selection_split: Text | None = None
    warning: Text = SEVERAL_RUNS


class Release(Frozen):
    """One thing that leaves the run, and what protects it."""

    item: Text
    protection: Protection
    detail: str = ""


class Data(Frozen):
    """Which dataset.

    Attributes:
        dataset: name in ``tables.TASKS``.
        source: hub id, or what kind of local source.
        revision: of the source.
        split: that was trained on.
        validation_split: that was scored.
        fingerprint: keyed (see ``runs.secret``): only the holder of the local key can check it.
        rows: n; leave it out to keep it private.
        rows_public: whether n was declared public.
    """

    dataset: Text
    source: Text
    revision: Text | None = None
    split: Text = "train"
    validation_split: Text | None = None
    fingerprint: Sha256 | None = None
    rows: PositiveCount | None = None
    rows_public: bool = False


class BaseModelInfo(Frozen):
    """The pretrained model; its overlap with the private data is not covered by any ε."""

    checkpoint: Text
    revision: Text | None = None
    sha256: Sha256 | None = None
    overlap: Literal["unknown", "declared absent", "declared present"] = "unknown"
    overlap_detail: Text | None = None


class Randomness(Frozen):
    """Generators and number format of the noise; never a seed."""

    noise_generator: Text | None = None
    sampling_generator: Text | None = None
    float_path: Text | None = None


class Software(Frozen):
    """Package versions by name, and what the model ran on."""

    versions: dict[str, str]
    dtype: Text
    device: Text


class Evidence(Frozen):
    """What there is to check.

    Attributes:
        tensors_sha256: of the released tensors (sorted name, dtype, shape, bytes); not of the file.
        audit: the result of an empirical audit.
        verify_command: what recomputes ε and the digests.
        limits: what that cannot show.
    """

    tensors_sha256: Sha256 | None = None
    audit: Text = "not run"
    verify_command: Text
    limits: Text = "verification proves arithmetic and integrity, not that training was honest"


def validation_access(classification: Classification) -> DataAccess:
    """The scoring of the validation split, classed as the caller knows it to be."""
    return DataAccess(
        access="evaluation",
        classification=classification,
        detail="the validation split is used for reporting only: nothing is chosen by its scores",
    )


def standard_releases(
    *, claimed: bool, rows_public: bool, checkpoints: bool = False, trained: bool = True
) -> tuple[Release, ...]:
    """What every run releases or keeps.

    Args:
        claimed: whether the manifest has a guarantee.
        rows_public: whether n was declared public.
        checkpoints: whether intermediate weights are released too.
        trained: whether any step was taken; if not, there are no weights and no scores.

    Returns:
        Weights (covered where ``claimed``), validation scores, per-step numbers, and n.
    """
    weights: Protection = "dp" if claimed else "not protected"
    releases = []
    if trained:
        releases.append(Release(item="adapter", protection=weights))
        if checkpoints:
            releases.append(Release(item="checkpoints", protection=weights))
        detail = "not protected by this guarantee" if claimed else "computed exactly"
        releases.append(Release(item="validation metrics", protection="not protected", detail=detail))
    return (
        *releases,
        Release(
            item="training loss of each step",
            protection="local-only",
            detail="computed exactly on private examples; kept in local-only/",
        ),
        Release(
            item="number of examples",
            protection="public" if rows_public else "not protected",
            detail="declared public" if rows_public else "sample rate and number of steps depend on it",
        ),
    )
