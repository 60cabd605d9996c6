"""A run over several processes: rank 0 runs it as if it were alone, the others follow.

Rank 0 has the store, the ledger, the terminal, the sampler and the noise. The others load the same model and
data, compute their share of every step, and apply what rank 0 releases; they write nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dpft.errors import PrivacyError
from dpft.privacy import parallel
from dpft.privacy.clipping import Clipper
from dpft.privacy.parallel import FollowingPlan, LeadingPlan
from dpft.privacy.plan import Plan, Schedule, schedule_for
from dpft.privacy.team import RunOverError, Team
from dpft.spec import RunSpec
from dpft.tables import CLIPPERS
from dpft.training.assemble import Assembled, assemble, open_session
from dpft.training.checks import settle
from dpft.training.keeper import spec_digest
from dpft.training.loop import Fit, begin, fit
from dpft.training.observer import Observer
from dpft.training.precision import settled
from dpft.training.signals import Deferred

__all__ = ["follow", "leading", "require_alone", "world_size"]

_Share = Callable[[Iterator[Any]], Iterator[Any]]


def world_size() -> int:
    """Of how many processes a launcher such as torchrun has started this one; 1 if of none."""
    given = os.environ.get("WORLD_SIZE", "")
    return int(given) if given.isdecimal() else 1


def require_alone() -> None:
    """Refuse to train alone where a launcher has started several processes.

    Each would draw its own batches and add its own noise: as many runs, all of them on the same examples.

    Raises:
        PrivacyError: it has.
    """
    if world_size() > 1:
        raise PrivacyError(
            f"WORLD_SIZE is {world_size()}: each of these processes would train on the data by itself",
            hint="start one process, or 'torchrun --nproc-per-node N -m dpft train …' without --resume",
        )


@contextmanager
def leading(
    plan: Plan, team: Team | None, spec: RunSpec, assembled: Assembled
) -> Iterator[tuple[Plan, _Share]]:
    """Rank 0's plan and share of the work, once all ranks start from the same weights; its own if alone.

    On the way out the others are sent home, however it went.

    Raises:
        DpftError: some process failed, or has other materials.
    """
    if team is None:
        yield plan, iter
        return
    leader = LeadingPlan(plan, team)
    try:
        with Deferred():
            leader.begin(_materials(spec, assembled, plan.schedule), assembled.parameters)
        yield leader, functools.partial(parallel.share, rank=team.rank, size=team.size)
    finally:
        team.end()


def follow(spec: RunSpec, team: Team) -> Mapping[str, nn.Parameter] | None:
    """Another rank's part in a run.

    Args:
        spec: the very one that rank 0 trains.
        team: the processes, called to this run.

    Returns:
        The trained parameters, equal to rank 0's; None where the run ended before its last step.

    Raises:
        DpftError: this process failed; the run is over for all.
    """
    try:
        return _follow(spec, team)
    except RunOverError:
        return None
    finally:
        team.object()  # unless the run is over for all already


def _follow(spec: RunSpec, team: Team) -> Mapping[str, nn.Parameter]:
    if spec.hardware.num_threads is not None:
        torch.set_num_threads(spec.hardware.num_threads)
    assembled = assemble(spec, Observer())
    if settled(spec, assembled.model).hardware.precision == "bf16":
        spec, _ = settle(spec, assembled)  # what rounds alike on rank 0's processor need not on this one
    spec = settled(spec, assembled.model)
    split = assembled.data.splits["train"]
    schedule = schedule_for(split.rows, spec.optimisation, spec.privacy)
    plan = FollowingPlan(schedule, _clipper(spec), team)
    plan.begin(_materials(spec, assembled, schedule), assembled.parameters)
    with open_session(spec, assembled, plan.clipper) as session:
        work = Fit(
            plan=plan,
            session=session,
            parameters=assembled.parameters,
            split=split,
            pad_token_id=assembled.pad_token_id,
            extra_tokens=spec.tuning.num_prepend_tokens or 0,
            max_length=spec.data.max_length,
            share=functools.partial(parallel.share, rank=team.rank, size=team.size),
        )
        learner = begin(assembled.parameters, spec.optimisation, schedule.steps)
        fit(work, spec.optimisation, spec.hardware, lambda _: None, learner)
    plan.finish()
    return assembled.parameters


def _clipper(spec: RunSpec) -> Clipper | None:
    if not spec.privacy.enabled:
        return None
    clipper: Clipper = CLIPPERS.get(spec.privacy.clipping)(spec.privacy.max_grad_norm)
    return clipper


def _materials(spec: RunSpec, assembled: Assembled, schedule: Schedule) -> bytes:
    """Digest of what all ranks must have alike: spec, data, base model, what trains, and the schedule."""
    shapes = [[name, list(value.shape)] for name, value in assembled.parameters.items()]
    document = [
        spec_digest(spec),
        assembled.data.content_digest.hex(),
        assembled.base.sha256,
        spec.hardware.micro_batch_tokens,
        assembled.features is not None,  # they decide how a batch is cut, so who counts whom
        shapes,
        repr(schedule),
    ]
    return hashlib.sha256(json.dumps(document).encode()).digest()
