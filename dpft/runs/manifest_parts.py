"""The groups of a manifest, each checked on its own.

:mod:`dpft.runs.manifest` checks them against each other.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpft.errors import PrivacyError
from dpft.runs.manifest_disclosure import (
    Classification,
    DataAccess,
    Protection,
    Release,
    standard_accesses,
    standard_releases,
    validation_access,
)
from dpft.runs.manifest_tuning import Tuning
from dpft.runs.quantities import Delta, Epsilon, NoiseMultiplier, SampleRate
from dpft.runs.schema import MANIFEST_VERSION
from dpft.spec import Frozen
from dpft.tables import ACCOUNTANTS

__all__ = [
    "DELTA_CHOSEN",
    "DELTA_FROM_DECLARED_ROWS",
    "DELTA_FROM_ROWS",
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
    "Overlap",
    "Protection",
    "Randomness",
    "Release",
    "Sampling",
    "Setting",
    "Software",
    "TrainableParameter",
    "Tuning",
    "standard_accesses",
    "standard_releases",
    "validation_access",
]

Adjacency = Literal["add-or-remove-one", "replace-one"]
Overlap = Literal["none", "possible", "unknown"]

DELTA_FROM_ROWS = "1/(2n), n being the number of training examples"
DELTA_FROM_DECLARED_ROWS = "1/(2N), N being the declared public estimate of the number of training examples"
DELTA_CHOSEN = "chosen by the user"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]  # what every reader of JSON holds exactly
PositiveCount = Annotated[int, Field(ge=1, le=2**53)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
UtcTime = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")]

NOISE_FIELDS = (
    "clipping", "max_grad_norm", "sensitivity", "noise_multiplier", "noise_standard_deviation",
    "expected_batch_size", "denominator", "empty_batch_rule", "steps_planned",
)  # fmt: skip


class Identity(Frozen):
    """Which run, made by what, when.

    Attributes:
        schema_version: of this document.
        run_id: 16 hex characters.
        created: UTC, ISO 8601.
        tool: what made it.
        tool_version: of the tool.
    """

    schema_version: Annotated[str, Field(pattern=r"^1\.\d+$")] = MANIFEST_VERSION
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    created: UtcTime
    tool: Text = "dpft"
    tool_version: Text


class Setting(Frozen):
    """Who is trusted with what, and what leaves them.

    Attributes:
        trust_model: ``central``: one party holds all examples.
        trusted: who that is.
        release: what others are given.
    """

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
        planned_epsilon: ε of all planned steps, where fewer were taken: whatever scores the moment of
            stopping was chosen by, no more than this was released of the training examples.
        second_accountant: name of the second opinion.
        second_epsilon: its ε, at the same δ.
    """

    epsilon: Epsilon
    delta: Delta
    delta_rule: Text
    target_epsilon: Epsilon | None = None
    replace_one_epsilon: Epsilon | None = None
    planned_epsilon: Epsilon | None = None
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
    """One trained tensor.

    Attributes:
        name: in the model while it trained; files may call it otherwise.
        shape: its dimensions.
    """

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
        noise_multiplier: σ, the noise's standard deviation in units of ``sensitivity``.
        noise_standard_deviation: of the noise that is added to each coordinate of a step's sum.
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
    noise_standard_deviation: PositiveNumber | None = None
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


class Data(Frozen):
    """Which dataset.

    Attributes:
        dataset: name in ``tables.TASKS``, or what the user called files of their own.
        source: hub id, or what kind of local source.
        revision: of the source.
        split: that was trained on.
        validation_split: that was scored.
        fingerprint: keyed (see ``runs.secret``): only the holder of the local key can check it. It is not
            given where ``rows_declared`` is: two runs would show whether their data are the same.
        rows: n; not given where it is private.
        rows_public: whether n was declared public.
        rows_declared: N, a public estimate in the place of a private n.
        max_length: tokens per example in training; longer ones were cut.
        labels: their names in order, as the user declared them for files of their own.
    """

    dataset: Text
    source: Text
    revision: Text | None = None
    split: Text = "train"
    validation_split: Text | None = None
    fingerprint: Sha256 | None = None
    rows: PositiveCount | None = None
    rows_public: bool = False
    rows_declared: PositiveCount | None = None
    max_length: PositiveCount | None = None
    labels: tuple[Text, ...] | None = None


class BaseModelInfo(Frozen):
    """The pretrained model. What it learnt of examples that are private here is covered by no ε.

    Attributes:
        checkpoint: hub id, or name of a folder.
        revision: hub commit.
        sha256: of its tensors.
        training_data: what its makers trained it on, where this tool knows.
        overlap: of that with the private examples, as the user declared it.
        overlap_detail: what the declaration means.
    """

    checkpoint: Text
    revision: Text | None = None
    sha256: Sha256 | None = None
    training_data: Text | None = None
    overlap: Overlap = "unknown"
    overlap_detail: Text = "what the base model had learnt before is not covered"


class Randomness(Frozen):
    """Where noise and samples came from; never a seed.

    Attributes:
        noise_generator: and how it is keyed.
        sampling_generator: likewise.
        float_path: number formats in which noise is drawn and added.
    """

    noise_generator: Text | None = None
    sampling_generator: Text | None = None
    float_path: Text | None = None


class Software(Frozen):
    """What the run was computed by.

    Attributes:
        versions: of packages, by name.
        dtype: of weights and arithmetic.
        device: that the model ran on.
    """

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
