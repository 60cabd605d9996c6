"""What the parts of a manifest must say of each other.

A manifest that breaks one of these rules cannot be made; one that was changed afterwards is found out by
them. Each rule is a function that yields what is wrong; :data:`RULES` names them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from dpft.runs.manifest_disclosure import ACCESSES, RELEASES_OF_ALL, RELEASES_OF_TRAINED
from dpft.runs.manifest_parts import DELTA_CHOSEN, DELTA_FROM_DECLARED_ROWS, DELTA_FROM_ROWS

if TYPE_CHECKING:
    from dpft.runs.manifest import Manifest

__all__ = ["RULES", "contradictions"]

_CLOSE = 1e-12  # products of floats that were multiplied in another order


def _claim(manifest: Manifest) -> Iterator[str]:
    """A guarantee stands exactly where it can be claimed."""
    if not manifest.private:
        yield from _ordinary(manifest)
        return
    sampling = manifest.sampling
    if manifest.definition is None or sampling is None or manifest.events is None:
        yield "a private run needs definition, sampling and events"
        return
    missing = manifest.mechanism.missing_noise_fields()
    if missing:
        yield f"a private run's mechanism needs {', '.join(missing)}"
    if manifest.randomness.noise_generator is None or manifest.randomness.sampling_generator is None:
        yield "a private run names the generators of its noise and its samples"
    claimable = sampling.assumptions_hold and manifest.steps > 0
    if claimable != (manifest.guarantee is not None):
        wanted = "needs" if claimable else "cannot have"
        yield (
            f"a run whose assumptions hold is {sampling.assumptions_hold}, "
            f"with {manifest.steps} steps taken, {wanted} a guarantee"
        )


def _ordinary(manifest: Manifest) -> Iterator[str]:
    claims = [
        name
        for name in ("definition", "guarantee", "sampling", "events")
        if getattr(manifest, name) is not None
    ]
    claims += [f"mechanism.{name}" for name in manifest.mechanism.present_noise_fields()]
    claims += [f"releases: {release.item}" for release in manifest.releases if release.protection == "dp"]
    claims += [
        f"data_accesses: {access.access}"
        for access in manifest.data_accesses
        if access.classification == "dp"
    ]
    if manifest.tuning.composed_epsilon is not None:
        claims.append("tuning.composed_epsilon")
    if manifest.randomness.noise_generator is not None:
        claims.append("randomness.noise_generator")
    if manifest.data.rows_declared is not None:
        claims.append("data.rows_declared")
    if claims:
        yield f"a non-private run cannot have {', '.join(claims)}"


def _noise(manifest: Manifest) -> Iterator[str]:
    """The noise multiplier σ is the same everywhere, and σ·C is the noise's standard deviation."""
    mechanism = manifest.mechanism
    if mechanism.sensitivity != mechanism.max_grad_norm:  # so for every clipper in the table
        yield f"the sensitivity {mechanism.sensitivity!r} is not C, {mechanism.max_grad_norm!r}"
    for event in manifest.events or ():
        if event.noise_multiplier != mechanism.noise_multiplier:
            yield "an event's noise multiplier is not the mechanism's"
    if mechanism.noise_multiplier is None or mechanism.sensitivity is None:
        return
    deviation = mechanism.noise_multiplier * mechanism.sensitivity
    stated = mechanism.noise_standard_deviation
    if stated is not None and not math.isclose(stated, deviation, rel_tol=_CLOSE):
        yield f"noise of standard deviation {stated!r} is not σ times the sensitivity, {deviation!r}"


def _sample_rate(manifest: Manifest) -> Iterator[str]:
    """Every event's q is the expected batch size over the number of examples; no step is too many."""
    mechanism, definition = manifest.mechanism, manifest.definition
    for event in manifest.events or ():
        if definition is not None and event.adjacency != definition.adjacency:
            yield f"an event is {event.adjacency}, the definition {definition.adjacency}"
        examples = _examples(manifest)
        if examples is not None and mechanism.expected_batch_size is not None:
            rate = mechanism.expected_batch_size / examples
            if not math.isclose(event.sample_rate, rate, rel_tol=_CLOSE):
                yield f"sample rate {event.sample_rate!r} is not {mechanism.expected_batch_size}/{examples}"
    if manifest.private and not manifest.steps <= (mechanism.steps_planned or 0):
        yield f"{manifest.steps} steps taken, {mechanism.steps_planned} planned"


def _delta(manifest: Manifest) -> Iterator[str]:
    """The stated δ follows its rule, and is below one over the number of examples."""
    guarantee = manifest.guarantee
    if guarantee is None:
        return
    examples = _examples(manifest)
    if examples is None:
        yield "a guarantee needs the number of examples, or a declared one, to hold δ against"
        return
    rule, declared = guarantee.delta_rule, manifest.data.rows_declared is not None
    if rule not in (DELTA_CHOSEN, DELTA_FROM_DECLARED_ROWS if declared else DELTA_FROM_ROWS):
        yield f"δ follows no known rule: {rule!r}"
    elif rule != DELTA_CHOSEN and not math.isclose(guarantee.delta, 1 / (2 * examples), rel_tol=_CLOSE):
        yield f"δ = {guarantee.delta!r} is not 1/(2·{examples})"
    if not guarantee.delta < 1 / examples:
        yield f"δ = {guarantee.delta!r} is not below 1/{examples}: a whole example might be published"


def _rows(manifest: Manifest) -> Iterator[str]:
    """The number of examples is stated, public or kept, the same everywhere."""
    data = manifest.data
    if data.rows_declared is not None:
        told = [name for name in ("rows", "fingerprint") if getattr(data, name) is not None]
        if told or data.rows_public:
            yield f"a run with a declared number of rows cannot tell {', '.join(told) or 'that it is public'}"
    elif data.rows is None and manifest.private and manifest.steps:
        yield "the number of rows, or a declared one, is missing"
    for release in manifest.releases:
        if release.item == "number of examples":
            if (release.protection == "public") != data.rows_public:
                yield "the number of examples is public in one place and not in another"
            if (release.protection == "local-only") != (data.rows_declared is not None):
                yield "the number of examples is told in one place and kept in another"


def _disclosure(manifest: Manifest) -> Iterator[str]:
    """No use of data and no release that every run has is passed over; the example is of this dataset."""
    accesses = [access.access for access in manifest.data_accesses]
    items = [release.item for release in manifest.releases]
    wanted = RELEASES_OF_ALL + (RELEASES_OF_TRAINED if manifest.evidence.tensors_sha256 else ())
    for name, told in (*((name, accesses) for name in ACCESSES), *((name, items) for name in wanted)):
        if told.count(name) != 1:
            yield f"{name!r} is listed {told.count(name)} times"
    where = f"{manifest.data.dataset}/{manifest.data.split}"
    if manifest.definition is not None and where not in manifest.definition.example:
        yield f"what an example is does not name {where}"


def _releases(manifest: Manifest) -> Iterator[str]:
    """Nothing is covered by a guarantee that is not claimed."""
    for release in manifest.releases:
        if release.protection == "dp" and manifest.guarantee is None:
            yield f"{release.item} cannot be covered by a guarantee that is not claimed"


def _tuning(manifest: Manifest) -> Iterator[str]:
    """All runs together cost no less than this one, which is one of them."""
    tuning, guarantee = manifest.tuning, manifest.guarantee
    together = tuning.composed_epsilon
    if together is not None and not (guarantee is not None and guarantee.epsilon <= together):
        yield "the ε of all runs together is below this run's own"
    if not (tuning.unprotected_runs or 0) <= (tuning.runs_on_this_data or 0):
        yield "more runs are unprotected than there are"


def _stopped(manifest: Manifest) -> Iterator[str]:
    """Where fewer steps were taken than planned, ε of all of them is stated, and is not less."""
    guarantee, planned = manifest.guarantee, manifest.mechanism.steps_planned
    if guarantee is None or planned is None:
        return
    bound = guarantee.planned_epsilon
    if bound is None:
        if manifest.steps < planned and not _older(manifest, 3):
            yield f"ε of all {planned} planned steps is missing"
    elif not manifest.steps < planned:
        yield "ε of all planned steps is stated twice: none is missing"
    elif not guarantee.epsilon <= bound:
        yield "ε of all planned steps is below that of those taken"


def _resumed(manifest: Manifest) -> Iterator[str]:
    """What earlier processes of the run released beyond this result is counted, and costs."""
    tuning, guarantee = manifest.tuning, manifest.guarantee
    lost, bound = tuning.lost_steps or 0, tuning.epsilon_with_lost_steps
    if lost and not tuning.resumptions:
        yield f"{lost} steps were lost, and the run was never resumed"
    if tuning.supersedes_steps and not lost:
        yield "an earlier adapter is superseded, and no step was lost"
    if (bound is not None) != (guarantee is not None and lost > 0):
        yield "ε of this run's steps with the lost ones goes with lost steps and a guarantee"
    elif bound is not None and guarantee is not None and not guarantee.epsilon <= bound:
        yield "ε of this run's steps with the lost ones is below that of its own"


def _older(manifest: Manifest, minor: int) -> bool:
    """Whether it was written by a version that had fewer fields."""
    return int(manifest.identity.schema_version.partition(".")[2]) < minor


def _examples(manifest: Manifest) -> int | None:
    """What q and δ follow from."""
    return manifest.data.rows_declared or manifest.data.rows


RULES: Mapping[str, Callable[[Manifest], Iterator[str]]] = MappingProxyType(
    {
        "claim": _claim,
        "releases": _releases,
        "tuning": _tuning,
        "disclosure": _disclosure,
        "number of examples": _rows,
        "noise": _noise,
        "sample rate and steps": _sample_rate,
        "delta": _delta,
        "planned steps": _stopped,
        "earlier processes": _resumed,
    }
)
"""The rules by name."""


def contradictions(manifest: Manifest) -> Iterator[str]:
    """Everything that a manifest's parts say against each other."""
    for rule in RULES.values():
        yield from rule(manifest)
