"""Specs, records and manifests for the tests of ``dpft.runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpft.runs.manifest import Manifest
from dpft.runs.manifest_parts import (
    BaseModelInfo,
    Classification,
    Data,
    DataAccess,
    Definition,
    Event,
    Evidence,
    Guarantee,
    Identity,
    Mechanism,
    Randomness,
    Sampling,
    Setting,
    Software,
    TrainableParameter,
    Tuning,
    standard_accesses,
    standard_releases,
    validation_access,
)
from dpft.runs.record import RunRecord, utc_now
from dpft.spec import (
    DataSpec,
    HardwareSpec,
    ModelSpec,
    OptimisationSpec,
    PrivacySpec,
    RunSpec,
    TuningSpec,
)

RUN_ID = "0123456789abcdef"


def make_spec(name: str | None = None, *, private: bool = True, **fields: Any) -> RunSpec:
    return RunSpec(
        name=name,
        data=DataSpec(dataset="sst2"),
        model=ModelSpec(),
        tuning=TuningSpec(mode="lora"),
        privacy=PrivacySpec(enabled=private),
        optimisation=OptimisationSpec(learning_rate=1e-3),
        hardware=HardwareSpec(precision="fp32"),
        **fields,
    )


def make_record(runs: Path, run_id: str = RUN_ID, **fields: Any) -> RunRecord:
    given: dict[str, Any] = {
        "name": f"run-{run_id}",
        "dataset": "sst2",
        "finetune_mode": "lora",
        "model_checkpoint": "prajjwal1/bert-tiny",
        "status": "completed",
        "private": True,
        "created": utc_now(),
        "run_dir": runs / run_id,
    }
    return RunRecord(run_id=run_id, **{**given, **fields})


def accesses(evaluation: Classification, *, private: bool = True) -> tuple[DataAccess, ...]:
    """The standard ones, with the evaluation classed so."""
    return tuple(
        validation_access(evaluation)
        if access.access == "evaluation"
        else access.model_copy(update={"classification": "public"})
        for access in standard_accesses(private=private, max_length=128)
    )


def private_parts(run_id: str = RUN_ID, *, steps: int = 512, planned: int = 512) -> dict[str, Any]:
    """The golden mechanism of the accounting: noise multiplier 3, 512 steps, q = 0.1, δ = 1e-6."""
    return {
        "private": True,
        "identity": Identity(run_id=run_id, created="2026-01-02T03:04:05.000006Z", tool_version="0.1.0"),
        "setting": Setting(),
        "definition": Definition(example="one row of sst2/train: a sentence and its label"),
        "guarantee": Guarantee(
            epsilon=3.76968,
            delta=1e-6,
            delta_rule="chosen by the user",
            target_epsilon=8.0,
            replace_one_epsilon=6.5,
            accountant="pld",
            second_accountant="rdp",
            second_epsilon=4.05099,
        ),
        "mechanism": Mechanism(
            kind="DP-SGD",
            finetune_mode="lora",
            engine="dpft",
            trainable_parameters=(TrainableParameter(name="classifier.weight", shape=(2, 128)),),
            clipping="flat",
            max_grad_norm=0.1,
            sensitivity=0.1,
            noise_multiplier=3.0,
            noise_standard_deviation=3.0 * 0.1,
            expected_batch_size=1000,
            denominator="expected batch size",
            empty_batch_rule="a step like any other: noise alone",
            steps_planned=planned,
        ),
        "sampling": Sampling(actual="poisson", assumptions_hold=True),
        "events": (Event(sample_rate=0.1, noise_multiplier=3.0, steps=steps),) if steps else (),
        "data_accesses": accesses("public"),
        "tuning": Tuning(),
        "releases": standard_releases(claimed=True, rows_public=True),
        "data": Data(dataset="sst2", source="nyu-mll/glue", rows=10_000, rows_public=True),
        "base_model": BaseModelInfo(checkpoint="prajjwal1/bert-tiny"),
        "randomness": Randomness(
            noise_generator="ChaCha20", sampling_generator="ChaCha20", float_path="float64"
        ),
        "software": Software(versions={"dpft": "0.1.0"}, dtype="float32", device="cpu"),
        "evidence": Evidence(tensors_sha256="ab" * 32, verify_command=f"dpft verify {run_id}"),
    }


def ordinary_parts(run_id: str = RUN_ID) -> dict[str, Any]:
    """A non-private run."""
    parts = private_parts(run_id)
    for name in ("definition", "guarantee", "sampling", "events"):
        del parts[name]
    return {
        **parts,
        "private": False,
        "mechanism": Mechanism(
            kind="ordinary training",
            finetune_mode="lora",
            engine="dpft",
            trainable_parameters=parts["mechanism"].trainable_parameters,
        ),
        "releases": standard_releases(claimed=False, rows_public=True),
        "randomness": Randomness(),
    }


def unclaimed_parts(run_id: str = RUN_ID) -> dict[str, Any]:
    """A private run whose assumptions do not hold."""
    parts = private_parts(run_id)
    del parts["guarantee"]
    return {
        **parts,
        "sampling": Sampling(actual="shuffled", assumptions_hold=False, why_not="batches were not Poisson"),
        "releases": standard_releases(claimed=False, rows_public=True),
    }


def stopped_parts(run_id: str = RUN_ID) -> dict[str, Any]:
    """A private run that took no step."""
    parts = private_parts(run_id, steps=0)
    del parts["guarantee"]
    return {
        **parts,
        "releases": standard_releases(claimed=False, rows_public=True, trained=False),
        "evidence": Evidence(verify_command=f"dpft verify {run_id}"),
    }


def make_manifest(**changes: Any) -> Manifest:
    return Manifest(**{**private_parts(), **changes})
