"""The record of one run: what ``run.json`` holds and the registry indexes."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpft.errors import PrivacyError, StoreError
from dpft.runs.files import write_json_atomic
from dpft.runs.quantities import Delta, Epsilon, NoiseMultiplier, SampleRate
from dpft.runs.schema import MIGRATIONS, SCHEMA_VERSION, Migration, read_document

__all__ = ["RunRecord", "Status", "load_record", "new_run_id", "parse_record", "save_record", "utc_now"]

Status = Literal["running", "completed", "interrupted", "failed", "crashed"]


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Score = Annotated[float | None, AfterValidator(_finite_or_none)]

_PRIVATE_ONLY = ("epsilon", "delta", "noise_multiplier", "sample_rate", "target_epsilon")


def new_run_id() -> str:
    """16 hex characters from the operating system's randomness."""
    return secrets.token_hex(8)


def utc_now() -> str:
    """This moment, UTC, ISO 8601 with microseconds: sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class RunRecord(BaseModel):
    """What is known of a run.

    A field of a newer minor schema is kept as it is. ``run_dir`` is where the record was found; it is not
    stored, so that a store can be moved.

    Attributes:
        run_id: 16 hex characters; 8 are shown.
        name: unique among the store's runs.
        dataset: its name in ``tables.TASKS``.
        finetune_mode: a name in ``tables.MODES``.
        model_checkpoint: the pretrained model.
        status: ``crashed`` is a run whose process died without ending it.
        private: whether it was trained with differential privacy; if not, ``epsilon``, ``delta``,
            ``noise_multiplier``, ``sample_rate`` and ``target_epsilon`` are None.
        epsilon: ε of the steps really taken; None while nothing can be claimed.
        delta: δ that goes with it.
        noise_multiplier: of each step.
        sample_rate: of each step.
        target_epsilon: ε the noise was calibrated for.
        steps: taken.
        steps_planned: of the schedule.
        published_steps: of a private run: steps in the last adapter that it left.
        superseded_steps: steps in an earlier adapter of which some are no part of the run any more, since
            it was resumed from a checkpoint before them; 0 where there is none.
        trainable_parameters: how many numbers train.
        metrics: scores by name; None for one that is not finite.
        baselines: what a constant answer scores, by name.
        seconds: wall-clock time.
        created: UTC, ISO 8601.
        finished: likewise, None while running and where the process died.
        tags: the user's.
        note: the user's.
        error: one line: why it failed.
        run_dir: its folder.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    schema_version: str = SCHEMA_VERSION
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    name: str
    dataset: str
    finetune_mode: str
    model_checkpoint: str
    status: Status
    private: bool
    epsilon: Epsilon | None = None
    delta: Delta | None = None
    noise_multiplier: NoiseMultiplier | None = None
    sample_rate: SampleRate | None = None
    target_epsilon: Epsilon | None = None
    steps: Annotated[int, Field(ge=0)] = 0
    steps_planned: Annotated[int, Field(ge=0)] | None = None
    published_steps: Annotated[int, Field(ge=0)] = 0
    superseded_steps: Annotated[int, Field(ge=0)] = 0
    trainable_parameters: Annotated[int, Field(ge=0)] | None = None
    metrics: dict[str, Score] = Field(default_factory=dict)
    baselines: dict[str, Score] = Field(default_factory=dict)
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    created: str
    finished: str | None = None
    tags: tuple[str, ...] = ()
    note: str = ""
    error: Annotated[str, AfterValidator(lambda text: " ".join(text.split()))] | None = None
    run_dir: Path = Field(exclude=True)

    @model_validator(mode="after")
    def _honest(self) -> RunRecord:
        claimed = [name for name in _PRIVATE_ONLY if getattr(self, name) is not None]
        if claimed and not self.private:
            raise PrivacyError(
                f"run {self.run_id[:8]} is not private, yet has {', '.join(claimed)}",
                hint="a run without differential privacy has none of these",
            )
        return self

    def revise(self, **fields: Any) -> RunRecord:
        """A validated copy with some fields changed.

        Raises:
            TypeError: a field that does not exist.
            PrivacyError: a privacy number out of range, or on a non-private run.
        """
        unknown = sorted(fields.keys() - RunRecord.model_fields.keys())
        if unknown:
            raise TypeError(f"a run record has no {', '.join(unknown)}")
        return RunRecord.model_validate({**self.model_dump(), "run_dir": self.run_dir, **fields})

    def to_public_json(self) -> dict[str, Any]:
        """The run as ``train``, ``list`` and ``show`` print it with ``--json``.

        Returns:
            JSON values. A privacy number that is not known, or that a non-private run cannot have, is left
            out: ε is never null.
        """
        document = self.model_dump(
            mode="json", include=set(RunRecord.model_fields), exclude={"schema_version"}
        )
        for name in _PRIVATE_ONLY:
            if document[name] is None:
                del document[name]
        if self.error is None:
            del document["error"]
        return {**document, "run_dir": str(self.run_dir)}


def parse_record(document: Mapping[str, Any], run_dir: Path) -> RunRecord:
    """Validate a stored record.

    Args:
        document: as stored, already of this major schema.
        run_dir: the run's folder.

    Raises:
        StoreError: it is not a run record.
    """
    try:
        return RunRecord.model_validate({**document, "run_dir": run_dir})
    except (ValidationError, PrivacyError) as error:
        problem = str(error.errors()[0]["loc"]) if isinstance(error, ValidationError) else error.message
        raise StoreError(
            f"{run_dir / 'run.json'} is not a run record: {problem}", hint="restore it from a backup"
        ) from error


def load_record(run_dir: Path, migrations: Mapping[str, Migration] = MIGRATIONS) -> RunRecord:
    """Read ``run.json``, migrating it if it is of an older major.

    Raises:
        StoreError: missing, damaged, of a newer major, or of another run than the folder's name says (a
            copy).
    """
    record = parse_record(read_document(run_dir / "run.json", migrations), run_dir)
    if record.run_id != run_dir.name:
        raise StoreError(
            f"{run_dir} holds the record of run {record.run_id}",
            hint="give the folder its run's id, or move it away",
        )
    return record


def save_record(record: RunRecord) -> None:
    """Write ``run.json`` atomically.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    write_json_atomic(record.run_dir / "run.json", record.model_dump(mode="json"))
