"""What an audit found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dpft import __version__
from dpft.audit.claim import Claim
from dpft.runs.record import utc_now

__all__ = ["LAYERS", "NO_VIOLATION", "VIOLATION", "AuditResult", "Check", "Layer", "Verdict"]

Layer = Literal["conformance", "white-box", "black-box"]
Verdict = Literal["pass", "fail", "informational"]

LAYERS: Final[tuple[Layer, ...]] = ("conformance", "white-box", "black-box")

NO_VIOLATION = "no violation found"
VIOLATION = "violation found"

SCHEMA_VERSION = "1.1"


@dataclass(frozen=True)
class Check:
    """One question put to the mechanism.

    Attributes:
        name: what it is about, in a few words; unique in an audit.
        layer: where it belongs.
        verdict: ``fail`` is a violation; ``informational`` decides nothing.
        detail: one line with the numbers.
        measured: the number that decides, if there is one.
        limit: what it is compared with.
        false_alarm_rate: probability of ``fail`` though the mechanism is as claimed, at most; 0 for checks
            without chance.
        numbers: more of them, for documents.
    """

    name: str
    layer: Layer
    verdict: Verdict
    detail: str
    measured: float | None = None
    limit: float | None = None
    false_alarm_rate: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values; what is not finite is left out."""
        document: dict[str, Any] = {
            "name": self.name,
            "layer": self.layer,
            "verdict": self.verdict,
            "detail": self.detail,
            "false_alarm_rate": self.false_alarm_rate,
        }
        numbers = {"measured": self.measured, "limit": self.limit, **self.numbers}
        finite = {
            name: value for name, value in numbers.items() if value is not None and math.isfinite(value)
        }
        return {**document, **finite}


@dataclass(frozen=True)
class AuditResult:
    """One audit.

    Attributes:
        model: the base model's public name.
        finetune_mode: how it is tuned.
        engine: what computed the clipped sums.
        clipping: how contributions were bounded.
        precision: of the model's matrix products.
        claim: what was claimed of the audited steps.
        canaries: m.
        checks: in the order they were made.
        seconds: wall-clock time.
        run_id: the run whose settings were audited, if one was named.
        created: UTC, ISO 8601.
    """

    model: str
    finetune_mode: str
    engine: str
    clipping: str
    precision: str
    claim: Claim
    canaries: int
    checks: Sequence[Check]
    seconds: float
    run_id: str | None = None
    created: str = field(default_factory=utc_now)

    @property
    def failed(self) -> list[Check]:
        """Violations."""
        return [check for check in self.checks if check.verdict == "fail"]

    @property
    def ok(self) -> bool:
        """Whether nothing was found; not a proof that there is nothing to find."""
        return not self.failed

    @property
    def verdict(self) -> str:
        """In words; never more than was shown."""
        return NO_VIOLATION if self.ok else VIOLATION

    @property
    def false_alarm_rate(self) -> float:
        """Probability that an audit of a right mechanism fails, at most: the sum over its checks."""
        return min(1.0, sum(check.false_alarm_rate for check in self.checks))

    def to_json(self) -> dict[str, Any]:
        """The document; everything in it comes from synthetic data."""
        return {
            "schema_version": SCHEMA_VERSION,
            "created": self.created,
            "tool_version": __version__,
            **({"run_id": self.run_id} if self.run_id is not None else {}),
            "ok": self.ok,
            "verdict": self.verdict,
            "failed": [check.name for check in self.failed],
            "false_alarm_rate": self.false_alarm_rate,
            "model": self.model,
            "finetune_mode": self.finetune_mode,
            "engine": self.engine,
            "clipping": self.clipping,
            "precision": self.precision,
            "canaries": self.canaries,
            "claim": self.claim.to_json(),
            "checks": [check.to_json() for check in self.checks],
            "seconds": self.seconds,
        }
