"""Audits of a run: its model, mode and privacy settings, and the ε that its manifest states.

The run's data are not touched: its settings are audited on synthetic examples, for fewer steps, under a claim
computed anew for those. The outcome may be shared, and is kept beside the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpft.accounting.calibrate import guarantee
from dpft.accounting.event import MechanismEvent
from dpft.audit.result import AuditResult, Check, Layer
from dpft.audit.run import AuditSpec
from dpft.data.own_files import task_of
from dpft.errors import DpftError, NotFoundError, UsageError
from dpft.runs.files import write_json_atomic
from dpft.runs.record import RunRecord
from dpft.spec import RunSpec
from dpft.training.precision import settled

__all__ = ["AUDIT_FILE", "check_stated_epsilon", "save", "spec_of_run"]

AUDIT_FILE = "audit.json"

_ROUNDING = 1e-9


def spec_of_run(
    record: RunRecord, spec: RunSpec, *, steps: int, canaries: int, layers: Sequence[Layer]
) -> AuditSpec:
    """What to audit for a run: its model, mode, clipper, engine, precision, q, σ, C and δ.

    Raises:
        UsageError: the run is not private.
        NotFoundError: it ended before its mechanism was settled.
    """
    if not spec.privacy.enabled:
        raise UsageError(
            f"run {record.name} was trained without privacy: it promises nothing to audit",
            hint="choose a private run; see 'dpft list'",
        )
    if record.noise_multiplier is None or record.sample_rate is None or record.delta is None:
        raise NotFoundError(
            f"run {record.name} has no mechanism on record: it is {record.status}",
            hint="choose a run that took a step; see 'dpft list --all'",
        )
    privacy = spec.privacy.model_copy(
        update={
            "target_epsilon": None,
            "noise_multiplier": record.noise_multiplier,
            "target_delta": record.delta,
            "public_n": None,  # the synthetic examples are public
        }
    )
    precision = settled(spec).hardware.precision
    assert precision != "auto"
    return AuditSpec(
        model=spec.model,
        tuning=spec.tuning,
        privacy=privacy,
        labels=tuple(task_of(spec.data).labels),
        sample_rate=record.sample_rate,
        learning_rate=spec.optimisation.learning_rate,
        steps=steps,
        canaries=canaries,
        layers=layers,
        precision=precision,
        max_length=spec.data.max_length,
        micro_batch_tokens=spec.hardware.micro_batch_tokens,
        run_id=record.run_id,
    )


def check_stated_epsilon(manifest: Mapping[str, Any]) -> Check:
    """ε recomputed from the manifest's events is at most the ε it states."""
    stated = manifest.get("guarantee")
    if not stated:
        return Check("stated ε", "conformance", "informational", "the manifest claims no ε")
    try:
        claimed, delta = float(stated["epsilon"]), float(stated["delta"])
        events = [MechanismEvent.from_dict(event) for event in manifest["events"]]
        found = guarantee(events, delta).epsilon
    except (DpftError, KeyError, TypeError, ValueError):
        return Check(
            "stated ε", "conformance", "fail", "the manifest's ε cannot be recomputed from its events"
        )
    return Check(
        "stated ε",
        "conformance",
        "pass" if found <= claimed * (1 + _ROUNDING) else "fail",
        f"the run's events cost ε = {found:.4f}; its manifest states {claimed:.4f}",
        found,
        claimed,
    )


def save(result: AuditResult, record: RunRecord) -> Path:
    """Keep a result beside the run, as ``audit.json``; the newest replaces the one before.

    Raises:
        StoreError: it cannot be written.
    """
    path = record.run_dir / AUDIT_FILE
    write_json_atomic(path, result.to_json())
    return path
