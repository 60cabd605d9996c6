"""What the manifest claims, held against itself and recomputed from its events."""

from __future__ import annotations

from collections.abc import Iterator

from dpft.accounting.accountant import Accountant
from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD
from dpft.errors import DpftError
from dpft.export.proof.report import Check, outcome
from dpft.export.proof.subject import Subject
from dpft.runs.manifest import Manifest
from dpft.runs.manifest_consistency import RULES
from dpft.runs.manifest_parts import Guarantee
from dpft.runs.statement import NOTHING_CLAIMED, round_up_epsilon
from dpft.tables import ACCOUNTANTS

__all__ = ["claim_checks"]

_TOO_LOW = 1e-4  # relative: what another version of the accountants' library may compute otherwise
_TOO_HIGH = 1e-3  # likewise; a claim above the truth is true, but not what these events cost
_MOST_EVENTS = 100  # a run has one, or one for each time it was resumed otherwise; each takes seconds


def claim_checks(subject: Subject) -> Iterator[Check]:
    """Whether the manifest is one, agrees with itself, and claims no less than its events cost."""
    manifest = subject.manifest
    problem = [f"privacy.json is not valid: {subject.problem}"] if subject.problem else []
    version = manifest.identity.schema_version if manifest else ""
    yield outcome("manifest", f"valid by schema {version}", problem)
    if manifest is None:
        return
    for name, rule in RULES.items():
        meaning = (rule.__doc__ or name).strip().rstrip(".")
        yield outcome(name, meaning[0].lower() + meaning[1:], rule(manifest))
    yield outcome("statement", "the sentence is the one that the fields make", _statement(manifest))
    yield from _guarantee(manifest)


def _statement(manifest: Manifest) -> Iterator[str]:
    if manifest.statement != manifest.sentence():
        yield "the sentence is not the one that the fields make"


def _guarantee(manifest: Manifest) -> Iterator[Check]:
    claimed = manifest.guarantee
    if claimed is None:
        yield _nothing_claimed(manifest)
        return
    if len(manifest.events or ()) > _MOST_EVENTS:
        yield Check("epsilon", False, f"more than {_MOST_EVENTS} events: no training is recorded so")
        return
    try:
        events = [MechanismEvent(**event.model_dump()) for event in manifest.events or ()]
    except DpftError as error:
        yield Check("epsilon", False, error.message)
        return
    yield _compare("epsilon", ACCOUNTANTS.get(claimed.accountant), events, claimed.delta, claimed.epsilon)
    if claimed.accountant != PLD.name:
        yield _compare("epsilon by PLD", PLD, events, claimed.delta, claimed.epsilon)
    yield from _others(claimed, events)
    yield from _more_steps(manifest, claimed, events)


def _others(claimed: Guarantee, events: list[MechanismEvent]) -> Iterator[Check]:
    if claimed.second_accountant is not None and claimed.second_epsilon is not None:
        second: Accountant = ACCOUNTANTS.get(claimed.second_accountant)
        yield _compare("second epsilon", second, events, claimed.delta, claimed.second_epsilon)
    if claimed.replace_one_epsilon is not None:
        name, told = "replace-one epsilon", claimed.replace_one_epsilon
        if told < claimed.epsilon:
            yield Check(name, False, "it is below the ε of adding or removing one, which it cannot be")
        else:
            swapped = [event.with_adjacency("replace-one") for event in events]
            yield _compare(name, PLD, swapped, claimed.delta, told, at_least=claimed.epsilon)


def _more_steps(manifest: Manifest, claimed: Guarantee, events: list[MechanismEvent]) -> Iterator[Check]:
    """ε of all planned steps, and of those that earlier processes took for nothing."""
    tuning = manifest.tuning
    bounds = (
        (
            "planned epsilon",
            claimed.planned_epsilon,
            (manifest.mechanism.steps_planned or 0) - manifest.steps,
        ),
        ("epsilon with lost steps", tuning.epsilon_with_lost_steps, tuning.lost_steps or 0),
    )
    for name, told, more in bounds:
        if told is not None and events and more > 0:
            longer = [*events[:-1], events[-1].with_steps(events[-1].steps + more)]
            yield _compare(name, PLD, longer, claimed.delta, told, at_least=claimed.epsilon)


def _nothing_claimed(manifest: Manifest) -> Check:
    if manifest.statement == NOTHING_CLAIMED:
        why_not = manifest.sampling.why_not if manifest.sampling else ""
        return Check("epsilon", False, f"{NOTHING_CLAIMED}: {why_not}")
    return Check("epsilon", True, "none is claimed")


def _compare(
    name: str,
    accountant: Accountant,
    events: list[MechanismEvent],
    delta: float,
    told: float,
    at_least: float = 0.0,
) -> Check:
    """Recompute one ε; what is told may be above it by little, and not below."""
    how = accountant.name.upper()
    try:
        found = max(at_least, accountant.epsilon(events, delta))
    except DpftError as error:
        return Check(name, False, error.message)
    numbers = f"{told!r} is claimed, {how} finds {found!r} from the events"
    if not told >= found * (1 - _TOO_LOW):
        return Check(name, False, f"too low: {numbers}")
    if not told <= found * (1 + _TOO_HIGH):
        return Check(name, False, f"not of these events: {numbers}")
    return Check(name, True, f"{how} finds {round_up_epsilon(found)} from the events, as claimed")
