"""What a run is held to before its first step, on made-up text."""

from __future__ import annotations

from dpft.engines.base import Engine
from dpft.errors import RoundingError
from dpft.spec import RunSpec
from dpft.tables import CLIPPERS, ENGINES
from dpft.training.assemble import Assembled
from dpft.training.evaluation import resting
from dpft.training.frozen import made_up
from dpft.training.precision import at, settled
from dpft.training.preflight import check_engine, check_reachable
from dpft.training.rounding import check_rounding

__all__ = ["check_before_training", "settle"]


def settle(spec: RunSpec, assembled: Assembled) -> tuple[RunSpec, tuple[str, ...]]:
    """``spec`` at the precision that it is to run at, looked at by :func:`check_before_training`.

    Where ``auto`` would be bf16, and that cannot keep examples apart here, it is fp32.

    Args:
        spec: the run.
        assembled: its materials; afterwards they are as they were.

    Returns:
        The spec, and what the user should know, in sentences.

    Raises:
        DpftError: as :func:`check_before_training`.
    """
    one = settled(spec, assembled.model)
    try:
        return one, check_before_training(one, assembled)
    except RoundingError as error:
        if spec.hardware.precision != "auto":
            raise
        one = at("fp32", spec)
        return one, (f"training at fp32: {error.message}", *check_before_training(one, assembled))


def check_before_training(spec: RunSpec, assembled: Assembled) -> tuple[str, ...]:
    """Compare engine and truth, and at bf16 an example's rounding in several companies.

    Args:
        spec: the run, its precision settled.
        assembled: its materials; afterwards they are as they were.

    Returns:
        What the user should know of how the engine works here, in sentences.

    Raises:
        ModelError: a parameter that the output does not depend on.
        PrivacyError: the engine is not exact here, or an example's gradient is not its own.
    """
    batch = made_up(assembled)
    with resting(assembled.model):
        check_reachable(assembled.model, assembled.parameters, batch)
        if not spec.privacy.enabled:
            return ()
        engine: Engine = ENGINES.get(spec.privacy.engine)
        clipping = CLIPPERS.get(spec.privacy.clipping)
        notes = check_engine(engine, assembled.model, assembled.parameters, batch, clipping)
        if spec.hardware.precision == "bf16":
            check_rounding(
                engine,
                assembled.model,
                assembled.parameters,
                clipping(1.0),
                longest=spec.data.max_length,
                token_budget=spec.hardware.micro_batch_tokens,
                extra_tokens=spec.tuning.num_prepend_tokens or 0,
                token_types="token_type_ids" in batch.inputs,
                pad_token_id=assembled.pad_token_id,
                labels=len(assembled.task.labels),
            )
        return notes
