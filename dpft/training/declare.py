"""The manifest of a run, from what really ran."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import nn

from dpft import __version__
from dpft.accounting.calibrate import guarantee
from dpft.accounting.pld import PLD
from dpft.data.prepare import PreparedData
from dpft.privacy.plan import OrdinaryPlan, PrivatePlan
from dpft.runs.manifest import Manifest
from dpft.runs.manifest_parts import (
    BaseModelInfo,
    Data,
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
)
from dpft.runs.secret import keyed_fingerprint
from dpft.spec import RunSpec
from dpft.tables import ENGINES
from dpft.training.assemble import Assembled
from dpft.tuning.builtin import training_data

__all__ = ["declare", "doubt_of", "example_in_words", "software_versions"]

_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "dp-accounting",
    "cryptography",
    "safetensors",
    "numpy",
)
_FLOAT_PATH = "53-bit uniforms, Box-Muller in float64, added to the sum in float64, then rounded"

_DTYPES = {"fp32": "float32", "bf16": "bfloat16 autocast, float32 weights and attention"}


def example_in_words(data: PreparedData) -> str:
    """What one example is: "one row of sst2/train: a text and its label"."""
    texts = "a pair of texts" if data.task.is_pair else "a text"
    return f"one row of {data.task.name}/train: {texts} and its label"


def declare(
    *,
    run_id: str,
    home: Path | None,
    spec: RunSpec,
    assembled: Assembled,
    parameters: Mapping[str, nn.Parameter],
    plan: PrivatePlan | OrdinaryPlan,
    validation_split: str,
    tuning: Tuning | None = None,
    tensors_sha256: str | None,
) -> Manifest:
    """State what the steps really taken cost.

    Args:
        run_id: the run's.
        home: the store whose key names the dataset; None for the user's.
        spec: what was asked for.
        assembled: data, base model and mode.
        parameters: trainable parameters by name.
        plan: the plan that ran; its counter of releases is the evidence.
        validation_split: that was scored.
        tuning: other runs on the same data, from the ledger; None where it was not asked.
        tensors_sha256: of the released tensors; None where nothing was trained.

    Raises:
        PrivacyError: parts that contradict each other.
    """
    private = isinstance(plan, PrivatePlan)
    trained = plan.steps_taken > 0
    doubt = doubt_of(plan, assembled.data)
    declared = plan.schedule.declared
    claimed = private and trained and doubt is None
    data = assembled.data
    engine = ENGINES.get(spec.privacy.engine).packages if private else ()
    return Manifest(
        private=private,
        identity=Identity(run_id=run_id, created=datetime.now(UTC).isoformat(), tool_version=__version__),
        setting=Setting(),
        definition=Definition(example=example_in_words(data)) if private else None,
        guarantee=_guarantee(plan, spec) if claimed else None,
        mechanism=_mechanism(spec, plan, parameters),
        sampling=Sampling(actual=plan.sampler_description, assumptions_hold=doubt is None, why_not=doubt)
        if isinstance(plan, PrivatePlan)
        else None,
        events=_events(plan) if private else None,
        data_accesses=standard_accesses(
            private=private,
            max_length=data.max_length,
            labels_declared=data.task.own_files is not None,
            carved=data.carved,
            stopped=(plan.steps_taken, plan.schedule.steps)
            if plan.steps_taken < plan.schedule.steps
            else None,
        ),
        tuning=tuning or Tuning(),
        releases=standard_releases(
            claimed=claimed, rows_public=False, rows_declared=declared, trained=trained
        ),
        data=Data(
            dataset=spec.data.dataset,
            source=data.source,
            revision=data.revision,
            validation_split=validation_split,
            fingerprint=None if declared else keyed_fingerprint(data.content_digest, home=home),
            rows=None if declared else data.splits["train"].rows,
            rows_declared=plan.schedule.examples if declared else None,
            max_length=data.max_length,
            labels=data.task.labels if data.task.own_files is not None else None,
        ),
        base_model=BaseModelInfo(
            checkpoint=assembled.base.public_id,
            revision=assembled.base.revision,
            sha256=assembled.base.sha256,
            training_data=training_data(spec.model.checkpoint),
            overlap=spec.model.data_overlap,
        ),
        randomness=Randomness(
            noise_generator=plan.noise_description,
            sampling_generator=plan.noise_description,
            float_path=_FLOAT_PATH,
        )
        if isinstance(plan, PrivatePlan)
        else Randomness(sampling_generator="NumPy PCG64, seeded"),
        software=Software(
            versions={"python": platform.python_version(), "dpft": __version__, **software_versions(engine)},
            dtype=_DTYPES[spec.hardware.precision],
            device=", ".join(sorted({parameter.device.type for parameter in parameters.values()})),
        ),
        evidence=Evidence(
            tensors_sha256=tensors_sha256,
            verify_command="dpft verify PATH, PATH being the folder of this file",
        ),
    )


def doubt_of(plan: PrivatePlan | OrdinaryPlan, data: PreparedData) -> str | None:
    """Why ε may not be claimed: the plan's own reasons, or that it did not run on these examples."""
    if not isinstance(plan, PrivatePlan):
        return None
    doubt = plan.doubt()
    if doubt is None and plan.examples != data.splits["train"].rows:
        return "the examples that were sampled are not those of the dataset"
    return doubt


def _guarantee(plan: PrivatePlan | OrdinaryPlan, spec: RunSpec) -> Guarantee:
    assert isinstance(plan, PrivatePlan)
    found = guarantee([plan.event], plan.schedule.delta)
    stopped = plan.event.steps < plan.planned_event.steps
    planned = PLD.epsilon([plan.planned_event], plan.schedule.delta) if stopped else None
    return Guarantee(
        epsilon=found.epsilon,
        delta=found.delta,
        delta_rule=plan.schedule.delta_rule,
        target_epsilon=None if spec.privacy.noise_multiplier is not None else spec.privacy.target_epsilon,
        replace_one_epsilon=found.epsilon_replace_one,
        planned_epsilon=None if planned is None else max(planned, found.epsilon),
        accountant="pld",
        second_accountant="rdp",
        second_epsilon=found.epsilon_rdp,
    )


def _events(plan: PrivatePlan | OrdinaryPlan) -> tuple[Event, ...]:
    assert isinstance(plan, PrivatePlan)
    event = plan.event
    return (Event(**event.to_dict()),) if event.steps else ()


def _mechanism(
    spec: RunSpec, plan: PrivatePlan | OrdinaryPlan, parameters: Mapping[str, nn.Parameter]
) -> Mechanism:
    shapes = tuple(TrainableParameter(name=name, shape=tuple(p.shape)) for name, p in parameters.items())
    if not isinstance(plan, PrivatePlan):
        return Mechanism(
            kind="AdamW on mean gradients of shuffled batches, without privacy",
            finetune_mode=spec.tuning.mode,
            engine="autograd",
            trainable_parameters=shapes,
        )
    return Mechanism(
        kind="DP-SGD: Poisson-subsampled Gaussian mechanism on clipped per-example gradients, then AdamW",
        finetune_mode=spec.tuning.mode,
        engine=spec.privacy.engine,
        trainable_parameters=shapes,
        clipping=plan.clipper.name,
        max_grad_norm=spec.privacy.max_grad_norm,
        sensitivity=plan.clipper.sensitivity,
        clipping_stability=plan.clipper.stability,
        clipping_groups=len(plan.clipper.groups(parameters)),
        noise_multiplier=plan.planned_event.noise_multiplier,
        noise_standard_deviation=plan.planned_event.noise_multiplier * plan.clipper.sensitivity,
        expected_batch_size=plan.schedule.expected_batch_size,
        denominator="expected batch size",
        empty_batch_rule="a step like any other: zero sum, noise added, counted",
        steps_planned=plan.schedule.steps,
    )


def software_versions(engine: tuple[str, ...] = ()) -> dict[str, str]:
    """The versions of what rounding may depend on, by package; ``engine``: packages of the engine's own."""
    found = {}
    for package in (*_PACKAGES, *engine):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # vendored or renamed: say nothing rather than something false
            continue
    return found
