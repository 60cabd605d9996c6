"""Stores with finished runs, made through the store's own interface, for the tests of reports."""

from __future__ import annotations

from typing import Any

from dpft.runs.manifest import Manifest
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from tests.unit.runs.builders import ordinary_parts, private_parts, stopped_parts, unclaimed_parts

PARTS = {
    "private": private_parts,
    "ordinary": ordinary_parts,
    "unclaimed": unclaimed_parts,
    "stopped": stopped_parts,
}
ROWS = 872
STEPS = 512


def shelve(
    store: Store,
    name: str | None = None,
    kind: str = "private",
    *,
    dataset: str = "sst2",
    accuracy: float = 0.75,
    rows: int | None = ROWS,
    checkpoint: str = "prajjwal1/bert-tiny",
    data_dir: str | None = None,
    seed: int = 0,
    **fields: Any,
) -> RunRecord:
    """A completed run with three scores of the validation split."""
    spec = RunSpec(
        name=name,
        data=DataSpec(dataset=dataset, data_dir=data_dir),
        model=ModelSpec(checkpoint=checkpoint),
        tuning=TuningSpec(mode="lora"),
        privacy=PrivacySpec(enabled=kind != "ordinary"),
        optimisation=OptimisationSpec(learning_rate=1e-3, seed=seed),
        hardware=HardwareSpec(precision="fp32"),
        **fields,
    )
    with store.create(spec) as run:
        for step, value in ((128, 0.55), (256, accuracy - 0.05), (STEPS, accuracy)):
            line: dict[str, Any] = {"step": step, "validation_accuracy": value}
            run.append_metrics(line | ({} if rows is None else {"validation_rows": rows}))
        manifest = Manifest(**PARTS[kind](run.record.run_id))
        taken = {"steps": STEPS} if kind == "ordinary" else {}
        return run.finish(
            "completed",
            manifest=manifest.to_dict(),
            metrics={"accuracy": accuracy},
            baselines={"majority": 0.51},
            steps_planned=STEPS,
            **taken,
        )
