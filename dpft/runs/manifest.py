"""The privacy manifest, ``privacy.json``: what a run promises, and the evidence to check it.

The groups follow Ponomareva et al. 2023, §5.3.3, and NIST SP 800-226. A :class:`Manifest` is built from plain
values and checked as a whole: one that would claim more than it can prove does not exist. What is not known
is left out; nothing is null, and no ε stands in a manifest that cannot claim one.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import model_validator

from dpft.errors import PrivacyError
from dpft.runs.manifest_parts import (
    BaseModelInfo,
    Data,
    DataAccess,
    Definition,
    Event,
    Evidence,
    Guarantee,
    Identity,
    Mechanism,
    Randomness,
    Release,
    Sampling,
    Setting,
    Software,
    Tuning,
)
from dpft.runs.schema import SCHEMA_VERSION
from dpft.runs.statement import statement_for
from dpft.spec import Frozen

__all__ = ["Manifest", "safetensors_header"]


class Manifest(Frozen):
    """One run's privacy statement; field order is the order in the file.

    Attributes:
        statement: one sentence. Leave it out: it is made from the other fields, and a given one must be the
            same.
        private: whether training was differentially private.
        identity: which run, made by what, when.
        setting: the trust model and what is released.
        definition: unit and adjacency; private runs only.
        guarantee: ε and δ; only where they can be claimed.
        mechanism: what ran.
        sampling: what was assumed and what ran; private runs only.
        events: what was executed, from which ε is recomputed; private runs only, empty before the first
            step.
        data_accesses: what else touched private data.
        tuning: other runs on the same data, and how this one was chosen.
        releases: each thing that leaves the run, and whether the guarantee covers it.
        data: which dataset.
        base_model: the pretrained model.
        randomness: where noise came from.
        software: what it ran on.
        evidence: digests, and how to verify.

    Raises:
        PrivacyError: parts that contradict each other, or an ε or δ out of range.
        pydantic.ValidationError: a missing, unknown or ill-typed field.
    """

    statement: str = ""
    private: bool
    identity: Identity
    setting: Setting
    definition: Definition | None = None
    guarantee: Guarantee | None = None
    mechanism: Mechanism
    sampling: Sampling | None = None
    events: tuple[Event, ...] | None = None
    data_accesses: tuple[DataAccess, ...]
    tuning: Tuning
    releases: tuple[Release, ...]
    data: Data
    base_model: BaseModelInfo
    randomness: Randomness
    software: Software
    evidence: Evidence

    @property
    def steps(self) -> int:
        """Noisy steps really taken; 0 for a non-private run, whose steps cost nothing to count."""
        return sum(event.steps for event in self.events or ())

    @property
    def not_covered(self) -> list[str]:
        """Accesses that nobody accounted for, and releases that nothing protects."""
        accesses = [item.access for item in self.data_accesses if item.classification == "unaccounted"]
        return accesses + [item.item for item in self.releases if item.protection == "not protected"]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.private:
            self._check_private()
        else:
            self._check_ordinary()
        self._check_releases()
        sentence = self._sentence()
        if not self.statement:
            object.__setattr__(self, "statement", sentence)
        elif self.identity.schema_version == SCHEMA_VERSION and self.statement != sentence:
            raise _contradiction("the statement is not the one its fields make")
        return self

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values, absent parts left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_json(self) -> str:
        """The text of ``privacy.json``."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def record_fields(self) -> dict[str, Any]:
        """What a run record must say too: ``run_id``, ``private``, and a private run's privacy numbers.

        Where no guarantee is claimed, ``epsilon`` and ``delta`` are None.
        """
        fields: dict[str, Any] = {"run_id": self.identity.run_id, "private": self.private}
        if not self.private:
            return fields
        fields |= {
            "epsilon": self.guarantee.epsilon if self.guarantee else None,
            "delta": self.guarantee.delta if self.guarantee else None,
            "noise_multiplier": self.mechanism.noise_multiplier,
            "steps": self.steps,
        }
        rates = {event.sample_rate for event in self.events or ()}
        return fields | ({"sample_rate": rates.pop()} if len(rates) == 1 else {})

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The published JSON Schema (2020-12) of ``privacy.json``.

        It describes the file: an absent part is absent, so null is allowed nowhere.
        """
        schema = cls.model_json_schema()
        _forbid_null(schema)
        schema["required"] = ["statement", *schema["required"]]
        schema["properties"]["statement"] = {"type": "string", "minLength": 1}
        head = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:dpft:privacy-manifest:{SCHEMA_VERSION}",
            "title": "dpft privacy manifest",
        }
        return {**head, **{key: value for key, value in schema.items() if key not in head}}

    def _check_private(self) -> None:
        definition, sampling, events = self.definition, self.sampling, self.events
        if definition is None or sampling is None or events is None:
            raise _contradiction("a private run needs definition, sampling and events")
        missing = self.mechanism.missing_noise_fields()
        if missing:
            raise _contradiction(f"a private run's mechanism needs {', '.join(missing)}")
        if self.randomness.noise_generator is None or self.randomness.sampling_generator is None:
            raise _contradiction("a private run names the generators of its noise and its samples")
        claimable = sampling.assumptions_hold and self.steps > 0
        if claimable != (self.guarantee is not None):
            wanted = "needs" if claimable else "cannot have"
            raise _contradiction(
                f"a run whose assumptions hold is {sampling.assumptions_hold}, "
                f"with {self.steps} steps taken, {wanted} a guarantee"
            )
        for event in events:
            if event.adjacency != definition.adjacency:
                raise _contradiction(f"an event is {event.adjacency}, the definition {definition.adjacency}")
            if event.noise_multiplier != self.mechanism.noise_multiplier:
                raise _contradiction("an event's noise multiplier is not the mechanism's")
        if not self.steps <= (self.mechanism.steps_planned or 0):
            raise _contradiction(f"{self.steps} steps taken, {self.mechanism.steps_planned} planned")

    def _check_ordinary(self) -> None:
        claims = [
            name
            for name in ("definition", "guarantee", "sampling", "events")
            if getattr(self, name) is not None
        ]
        claims += [f"mechanism.{name}" for name in self.mechanism.present_noise_fields()]
        claims += [f"releases: {release.item}" for release in self.releases if release.protection == "dp"]
        claims += [
            f"data_accesses: {access.access}"
            for access in self.data_accesses
            if access.classification == "dp"
        ]
        if self.tuning.composed_epsilon is not None:
            claims.append("tuning.composed_epsilon")
        if self.randomness.noise_generator is not None:
            claims.append("randomness.noise_generator")
        if claims:
            raise _contradiction(f"a non-private run cannot have {', '.join(claims)}")

    def _check_releases(self) -> None:
        for release in self.releases:
            if (
                release.item == "number of examples"
                and (release.protection == "public") != self.data.rows_public
            ):
                raise _contradiction("the number of examples is public in one place and not in another")
            if release.protection == "dp" and self.guarantee is None:
                raise _contradiction(f"{release.item} cannot be covered by a guarantee that is not claimed")

    def _sentence(self) -> str:
        guarantee = self.guarantee
        return statement_for(
            private=self.private,
            assumptions_hold=self.sampling.assumptions_hold if self.sampling else True,
            example=self.definition.example if self.definition else "",
            adjacency=self.definition.adjacency if self.definition else "",
            release=self.setting.release,
            epsilon=guarantee.epsilon if guarantee else None,
            delta=guarantee.delta if guarantee else None,
            steps=self.steps,
            steps_planned=self.mechanism.steps_planned or 0,
            not_covered=self.not_covered,
        )


def safetensors_header(manifest: Manifest) -> str:
    """The value of the key ``dpft`` in the header of ``adapter_model.safetensors``.

    Args:
        manifest: of the run that made the adapter.

    Returns:
        Compact JSON: ``run_id`` and ``private``; of a private run also ``epsilon``, ``delta``, ``unit`` and
        ``adjacency``, or, where nothing can be claimed, ``statement`` instead.
    """
    header: dict[str, Any] = {"run_id": manifest.identity.run_id, "private": manifest.private}
    if manifest.guarantee is not None and manifest.definition is not None:
        header |= {
            "epsilon": manifest.guarantee.epsilon,
            "delta": manifest.guarantee.delta,
            "unit": manifest.definition.unit,
            "adjacency": manifest.definition.adjacency,
        }
    elif manifest.private:
        header["statement"] = manifest.statement
    return json.dumps(header, separators=(",", ":"), allow_nan=False)


def _contradiction(problem: str) -> PrivacyError:
    return PrivacyError(
        f"the manifest contradicts itself: {problem}", hint="nothing was written; report this"
    )


def _forbid_null(node: Any) -> None:
    """Remove null, and defaults that are null, from a schema in place."""
    if isinstance(node, list):
        for item in node:
            _forbid_null(item)
        return
    if not isinstance(node, dict):
        return
    options = node.get("anyOf")
    if isinstance(options, list):
        kept = [option for option in options if option != {"type": "null"}]
        if len(kept) == 1:
            del node["anyOf"]
            node.update(kept[0])
        else:
            node["anyOf"] = kept
    if "default" in node and node["default"] is None:
        del node["default"]
    for value in node.values():
        _forbid_null(value)
