"""What is known of a run before its first step."""

from __future__ import annotations

from typing import Any

from dpft.accounting.calibrate import guarantee
from dpft.privacy.plan import OrdinaryPlan, PrivatePlan
from dpft.spec import RunSpec
from dpft.training.assemble import Assembled
from dpft.training.observer import RunFacts

__all__ = ["facts_of"]


def facts_of(
    spec: RunSpec, assembled: Assembled, plan: PrivatePlan | OrdinaryPlan, *, run_id: str, name: str
) -> RunFacts:
    """What the run will do: the numbers of its plan, and the size of what trains.

    Args:
        spec: what was asked for.
        assembled: data and model.
        plan: sample rate, σ, steps and δ.
        run_id: empty for a run that is only planned.
        name: likewise.

    Raises:
        PrivacyError: an ε that cannot be stated.
    """
    schedule = plan.schedule
    common: dict[str, Any] = {
        "run_id": run_id,
        "name": name,
        "dataset": spec.data.dataset,
        "finetune_mode": spec.tuning.mode,
        "model": assembled.base.public_id,
        "private": spec.privacy.enabled,
        "examples": schedule.examples,
        "examples_declared": schedule.declared,
        "steps": schedule.steps,
        "steps_taken": plan.steps_taken,
        "trainable_parameters": sum(p.numel() for p in assembled.parameters.values()),
        "all_parameters": sum(p.numel() for p in assembled.model.parameters()),
        "expected_batch_size": schedule.expected_batch_size,
        "learning_rate": spec.optimisation.learning_rate,
    }
    if not isinstance(plan, PrivatePlan):
        return RunFacts(**common)
    return RunFacts(
        **common,
        sample_rate=schedule.sample_rate,
        noise_multiplier=plan.planned_event.noise_multiplier,
        max_grad_norm=spec.privacy.max_grad_norm,
        delta=schedule.delta,
        # In full, so that what the manifest will need is refused now if it cannot be had.
        planned_epsilon=guarantee([plan.planned_event], schedule.delta).epsilon,
    )
