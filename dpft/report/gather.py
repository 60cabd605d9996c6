"""What a report may say of a run, read from the store.

Three files of a run are opened: ``run.json``, ``privacy.json`` and ``metrics.jsonl``, and of the last only
steps and validation scores are kept. ``config.yaml`` (seed, folders), ``local-only/`` and ``checkpoints/``
are not opened. The time a run took is left out too: it depends on the private examples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PldAccountant
from dpft.errors import DpftError, NotFoundError
from dpft.runs.manifest import Manifest
from dpft.runs.record import RunRecord
from dpft.runs.store import Store

__all__ = ["ReportedRun", "Score", "Spent", "gather", "interval", "spending"]

_QUICK = PldAccountant(interval=1e-2)  # never too low either, and much faster than what is claimed
_POINTS = 9  # of a curve of ε, its end included
_PREFIX = "validation_"


@dataclass(frozen=True)
class Score:
    """The validation split, scored once.

    Attributes:
        step: after how many steps.
        metrics: by name; what is not finite is left out.
        rows: how many were scored, where the run says so.
    """

    step: int
    metrics: Mapping[str, float]
    rows: int | None

    @property
    def accuracy(self) -> float | None:
        """The share of right answers."""
        return self.metrics.get("accuracy")

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of the accuracy."""
        return interval(self.accuracy, self.rows)


@dataclass(frozen=True)
class Spent:
    """ε of the first steps of a run.

    Attributes:
        step: how many.
        epsilon: never below what they cost.
    """

    step: int
    epsilon: float


@dataclass(frozen=True)
class ReportedRun:
    """One run, as a report has it.

    Attributes:
        number: its place in the report, from 1: how charts name it.
        record: of the store; only a few of its fields are printed.
        manifest: where there is one, and it holds together.
        problem: why nothing is said about privacy although the record might.
        scores: of the validation split, in order of steps.
        spent: ε over steps; empty where none is claimed.
    """

    number: int
    record: RunRecord
    manifest: Manifest | None
    problem: str | None
    scores: tuple[Score, ...]
    spent: tuple[Spent, ...]

    @property
    def epsilon(self) -> float | None:
        """ε as the manifest claims it; None where it claims none."""
        return self.manifest.guarantee.epsilon if self.manifest and self.manifest.guarantee else None

    @property
    def delta(self) -> float | None:
        """δ that goes with it."""
        return self.manifest.guarantee.delta if self.manifest and self.manifest.guarantee else None

    @property
    def accuracy(self) -> float | None:
        """Of the record: at the run's end."""
        return self.record.metrics.get("accuracy")

    @property
    def majority(self) -> float | None:
        """What always answering the most frequent label scores."""
        return self.record.baselines.get("majority")

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of the accuracy, where it is known how many rows were scored."""
        last = self.scores[-1] if self.scores else None
        return interval(self.accuracy, last.rows if last else None)

    @property
    def model(self) -> str:
        """The base model: a hub id, or the name of a folder without the way to it."""
        if self.manifest is not None:
            return self.manifest.base_model.checkpoint
        return _without_way(self.record.model_checkpoint)


def gather(store: Store, records: Sequence[RunRecord]) -> tuple[ReportedRun, ...]:
    """Read what a report says of ``records``, numbered in their order.

    A manifest that is damaged or contradicts itself or the record is not an error here: the run is shown, and
    nothing is claimed of it.
    """
    return tuple(_gather_one(store, record, number) for number, record in enumerate(records, start=1))


def _gather_one(store: Store, record: RunRecord, number: int) -> ReportedRun:
    manifest, problem = _manifest(store, record)
    return ReportedRun(
        number=number,
        record=record,
        manifest=manifest,
        problem=problem,
        scores=tuple(_scores(record.run_dir / "metrics.jsonl")),
        spent=spending(manifest) if manifest is not None else (),
    )


def _manifest(store: Store, record: RunRecord) -> tuple[Manifest | None, str | None]:
    try:
        manifest = Manifest.model_validate(store.manifest(record))
    except NotFoundError:
        return None, f"it has no manifest: it is {record.status}"
    except (DpftError, ValidationError):
        return None, "its manifest is damaged or contradicts itself: see 'dpft verify'"
    differing = [name for name, value in manifest.record_fields().items() if getattr(record, name) != value]
    if differing:
        return None, f"its manifest and its record differ in {', '.join(differing)}: see 'dpft verify'"
    return manifest, None


def spending(manifest: Manifest) -> tuple[Spent, ...]:
    """ε over the steps of a run that claims one; recomputed from its events.

    Returns:
        From one step to all; closer together at the beginning, where ε rises fastest. The last is ε as
        claimed, and none is above it: an upper bound of all steps is one of some of them.
    """
    claim = manifest.guarantee
    if claim is None or not manifest.events:
        return ()
    total = manifest.steps
    wanted = {max(1, round(total * (part / (_POINTS - 1)) ** 2)) for part in range(_POINTS)}
    points = []
    for step in sorted(wanted - {total}):
        try:
            found = _QUICK.epsilon(list(_first(manifest, step)), claim.delta)
        except DpftError:
            continue  # too weak, or δ too small, for this accountant: the claimed end stays
        points.append(Spent(step, min(found, claim.epsilon)))
    return (*points, Spent(total, claim.epsilon))


def _first(manifest: Manifest, steps: int) -> Iterator[MechanismEvent]:
    for event in manifest.events or ():
        taken = min(steps, event.steps)
        steps -= taken
        if taken:
            yield MechanismEvent(event.sample_rate, event.noise_multiplier, taken, event.adjacency)


def _scores(path: Path) -> Iterator[Score]:
    """Of a run that went back to a checkpoint, the later scores count. A line that is none is passed over."""
    found: list[Score] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is not int or step < 0:
            continue
        score = _score(step, row)
        if score.metrics:
            found = [*(earlier for earlier in found if earlier.step < step), score]
    yield from found


def _score(step: int, row: Mapping[str, Any]) -> Score:
    rows = row.get("validation_rows")
    metrics = {
        name.removeprefix(_PREFIX): float(value)
        for name, value in row.items()
        if name.startswith(_PREFIX) and name != "validation_rows" and _is_share(value)
    }
    return Score(step, metrics, rows if type(rows) is int and rows > 0 else None)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def interval(accuracy: float | None, rows: int | None) -> tuple[float, float] | None:
    """The 95% Wilson interval of an accuracy, where it is known how many rows were scored.

    >>> interval(0.75, None)
    >>> low, high = interval(0.75, 400)
    >>> f"{low:.4f} to {high:.4f}"
    '0.7053 to 0.7899'
    """
    if accuracy is None or rows is None or not (math.isfinite(accuracy) and 0 <= accuracy <= 1):
        return None
    from dpft.data.metrics import wilson_interval

    return wilson_interval(round(accuracy * rows), rows)


def _without_way(checkpoint: str) -> str:
    """The last part of a local folder's path; a hub id as it is.

    >>> _without_way("/srv/models/bert"), _without_way("prajjwal1/bert-tiny")
    ('bert', 'prajjwal1/bert-tiny')
    """
    local = checkpoint.startswith(("/", "~", ".", "\\")) or "\\" in checkpoint or checkpoint.count("/") > 1
    return checkpoint.replace("\\", "/").rstrip("/").rpartition("/")[2] if local else checkpoint
