"""The privacy manifest, ``privacy.json``: what a run promises, and the evidence to check it.

The groups follow Ponomareva et al. 2023, §5.3.3, and NIST SP 800-226. A :class:`Manifest` is built from plain
values and checked as a whole: one that would claim more than it can prove does not exist. What is not known
is left out; nothing is null, and no ε stands in a manifest that cannot claim one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationInfo, model_validator

from dpft.errors import PrivacyError
from dpft.runs.manifest_consistency import contradictions
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
from dpft.runs.manifest_schema import published_schema
from dpft.runs.schema import MANIFEST_VERSION
from dpft.runs.statement import statement_for
from dpft.spec import Frozen

__all__ = ["UNJUDGED", "Manifest", "manifest_sha256", "safetensors_header"]

UNJUDGED = "unjudged"
"""Validation context under which contradictions between parts are let pass, for whoever looks for them."""


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
    def _consistent(self, info: ValidationInfo) -> Manifest:
        for problem in contradictions(self) if info.context != UNJUDGED else ():
            raise _contradiction(problem)
        if not self.statement:
            object.__setattr__(self, "statement", self.sentence())
        if info.context == UNJUDGED:
            return self
        if self.identity.schema_version == MANIFEST_VERSION and self.statement != self.sentence():
            raise _contradiction("the statement is not the one its fields make")
        return self

    def sentence(self) -> str:
        """The statement that the other fields make."""
        guarantee = self.guarantee if self.definition else None
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
            superseding_epsilon=self.tuning.epsilon_with_lost_steps if self.tuning.supersedes_steps else None,
        )

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
        schema = published_schema(cls)
        schema["required"] = ["statement", *schema["required"]]
        statement = schema["properties"]["statement"]
        schema["properties"]["statement"] = {
            "type": "string",
            "minLength": 1,
            "description": statement["description"],
        }
        return schema


def manifest_sha256(document: Mapping[str, Any]) -> str:
    """Digest of a manifest, however its file is laid out.

    Args:
        document: the JSON values of ``privacy.json``.

    Returns:
        Hex SHA-256 of the UTF-8 text that Python's ``json.dumps`` makes with keys sorted, no blanks, and no
        escapes but those that JSON demands.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def safetensors_header(manifest: Manifest, document: Mapping[str, Any] | None = None) -> str:
    """The value of the key ``dpft`` in the header of ``adapter_model.safetensors``.

    Args:
        manifest: of the run that made the adapter.
        document: its JSON values as they stand in a file, where they were read from one.

    Returns:
        Compact JSON: ``run_id`` and ``private``; of a private run also ``epsilon``, ``delta``, ``unit`` and
        ``adjacency``, or, where nothing can be claimed, ``statement`` instead; and ``manifest_sha256``, which
        binds every field of the manifest (:func:`manifest_sha256`). The hash of the tensors leaves headers
        out, so that the two can hold each other.
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
    header["manifest_sha256"] = manifest_sha256(document if document is not None else manifest.to_dict())
    return json.dumps(header, separators=(",", ":"), allow_nan=False)


def _contradiction(problem: str) -> PrivacyError:
    return PrivacyError(
        f"the manifest contradicts itself: {problem}", hint="nothing was written; report this"
    )
