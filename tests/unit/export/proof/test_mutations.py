"""Tampering is found: every field of the manifest in three ways, and bytes of the weights anywhere.

Three tamperers, each knowing more. The first changes a file and nothing else. The second lists the files'
digests anew, which anybody can. The third rewrites sentence, card and header too, so that all agree: whatever
cannot be contradicted from the files alone gets past ``verify`` then, and is listed here, with why.
"""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from dpft.errors import DpftError
from dpft.export.proof import verify
from dpft.export.proof.claims import claim_checks
from dpft.export.proof.subject import open_subject
from dpft.runs.tensors import read_header

from .conftest import failures, forge, list_anew, manifest_in, verified, write_manifest

pytestmark = pytest.mark.slow

Place = tuple[str | int, ...]

NOTHING_OFFLINE_CONTRADICTS = {
    "who and when; nobody else wrote it down": (
        "identity.run_id", "identity.created", "identity.tool",
        "identity.tool_version",
    ),
    "what ran, in words; only whoever trained knows": (
        "setting.trusted", "definition.example", "mechanism.kind", "mechanism.engine",
        "mechanism.micro_batching", "mechanism.clipping", "mechanism.clipping_groups",
        "mechanism.denominator", "mechanism.empty_batch_rule", "sampling.assumed",
        "sampling.actual", "randomness.noise_generator", "randomness.sampling_generator",
        "randomness.float_path", "software.dtype", "software.device", "software.versions.*",
    ),
    "remarks": (
        "data_accesses.*.access", "data_accesses.*.detail", "data_accesses.*.classification",
        "releases.*.detail", "tuning.ledger", "tuning.warning", "evidence.audit", "evidence.verify_command",
        "evidence.limits", "base_model.overlap", "base_model.overlap_detail",
    ),
    "of data and base model there is nothing here": (
        "data.source", "data.revision", "data.validation_split", "data.fingerprint", "data.max_length",
        "base_model.sha256",
    ),
    "counted in the ledger, which stays with whoever trained": (
        "tuning.runs_on_this_data", "tuning.unprotected_runs", "tuning.composed_epsilon",
        "tuning.resumptions",
    ),
    "what was aimed at, which no event shows": ("guarantee.target_epsilon",),
}  # fmt: skip
"""What only the digest in the header binds, and why nothing else could."""

ONLY_BOUND_BY_DIGEST = {name for names in NOTHING_OFFLINE_CONTRADICTS.values() for name in names}


def places(node: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every leaf of a document."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from places(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from places(value, (*path, index))
    else:
        yield path, node


def named(path: Place) -> str:
    """One name for all items of a list, and for all packages."""
    text = ".".join("*" if isinstance(part, int) else part for part in path)
    return "software.versions.*" if text.startswith("software.versions.") else text


def other_value(value: Any) -> Any:
    """Another value of the same kind, that a schema may well take."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.01
    if len(value) in (16, 64) and set(value) <= set("0123456789abcdef"):
        return ("1" if value[0] == "0" else "0") + value[1:]
    if value[:2] == "20" and "T" in value:
        return "2021" + value[4:]
    return {"none": "unknown", "unknown": "none", "public": "unaccounted", "unaccounted": "public"}.get(
        value, value + "x"
    )


def other_type(value: Any) -> Any:
    """The same value as another type; what a lenient reader would take for it."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return float(value)
    if isinstance(value, float):
        return repr(value)
    return [value]


def changed(document: dict[str, Any], path: Place, change: Callable[[Any], Any] | None) -> dict[str, Any]:
    """A copy with one place changed, or deleted."""
    found = copy.deepcopy(document)
    node: Any = found
    for part in path[:-1]:
        node = node[part]
    if change is None:
        del node[path[-1]]
    else:
        node[path[-1]] = change(node[path[-1]])
    return found


CHANGES: dict[str, Callable[[Any], Any] | None] = {"value": other_value, "type": other_type, "deletion": None}


@pytest.mark.parametrize("kind", CHANGES)
def test_every_field_is_bound(kind: str, adapter: Path) -> None:
    """No field can be changed alone, with the files listed anew (the second tamperer) or not (the first)."""
    document = manifest_in(adapter)
    listing = (adapter / "files.json").read_bytes()
    fields = list(places(document))
    assert len(fields) > 150
    missed = []
    for path, _ in fields:
        write_manifest(adapter, changed(document, path, CHANGES[kind]))
        (adapter / "files.json").write_bytes(listing)
        assert verify_quickly(adapter, "files"), path
        list_anew(adapter)
        if not verify_quickly(adapter):
            missed.append(named(path))
    assert missed == []


@pytest.mark.parametrize("group", ["guarantee", "events", "sampling", "definition", "releases", "evidence"])
def test_no_group_can_be_taken_out_or_added_to(group: str, adapter: Path) -> None:
    document = manifest_in(adapter)
    for tampered in (
        {key: value for key, value in document.items() if key != group},
        {**document, "remark": "harmless"},
        {**document, group: [] if isinstance(document[group], list) else {}},
    ):
        write_manifest(adapter, tampered)
        list_anew(adapter)
        assert verified(adapter)


def verify_quickly(folder: Path, only: str = "") -> list[str]:
    """Failing checks; without recomputing ε where the digest alone is asked about."""
    from dpft.export.proof.listing import listing_checks
    from dpft.export.proof.weights import weights_checks

    subject = open_subject(folder)
    found = list(listing_checks(subject))
    if only:
        return [check.name for check in found if not check.ok and check.name == only]
    if subject.manifest is None:
        return ["manifest"]
    found += weights_checks(subject)
    return [check.name for check in found if not check.ok]


def test_a_forger_gets_past_with_these_fields_only(adapter: Path) -> None:
    """The third tamperer: what is left is what no file here can contradict."""
    document = manifest_in(adapter)
    tried: dict[str, list[list[str]]] = {}
    for path, _ in places(document):
        name = named(path)
        if len(tried.get(name, ())) == 2:  # of a kind, of which there are many
            continue
        try:
            forge(adapter, changed(document, path, other_value), honest_sentence=name != "statement")
        except (DpftError, ValidationError):
            found = ["no manifest at all"]
        else:
            found = verified(adapter)
        tried.setdefault(name, []).append(found)
    passed = {name for name, found in tried.items() if [] in found}
    assert passed == ONLY_BOUND_BY_DIGEST & tried.keys()
    assert {"guarantee.target_epsilon", "data.revision"} >= ONLY_BOUND_BY_DIGEST - tried.keys()
    forge(adapter, document)
    assert verified(adapter) == []


def test_a_forged_epsilon_is_found_however_consistent(adapter: Path) -> None:
    """Every number that ε rests on, moved to the claimant's advantage, with all else rewritten to agree."""
    document = manifest_in(adapter)
    q, sigma = document["events"][0]["sample_rate"], document["events"][0]["noise_multiplier"]
    lies: list[dict[str, dict[str, Any]]] = [
        {"guarantee": {"epsilon": document["guarantee"]["epsilon"] * 0.9}},
        {"guarantee": {"replace_one_epsilon": document["guarantee"]["replace_one_epsilon"] * 0.9}},
        {"guarantee": {"second_epsilon": document["guarantee"]["second_epsilon"] * 0.9}},
        {"guarantee": {"delta": document["guarantee"]["delta"] * 2}},
        {"guarantee": {"accountant": "rdp"}},
        {
            "mechanism": {
                "noise_multiplier": sigma / 2,
                "noise_standard_deviation": sigma / 2 * document["mechanism"]["sensitivity"],
            },
            "events": {"noise_multiplier": sigma / 2},
        },
        {
            "mechanism": {"expected_batch_size": document["mechanism"]["expected_batch_size"] * 2},
            "events": {"sample_rate": q * 2},
        },
        {
            "mechanism": {"steps_planned": 10 * document["mechanism"]["steps_planned"]},
            "events": {"steps": 10 * document["events"][0]["steps"]},
        },
    ]
    for lie in lies:
        tampered = copy.deepcopy(document)
        for group, fields in lie.items():
            (tampered["events"][0] if group == "events" else tampered[group]).update(fields)
        forge(adapter, tampered)
        assert verified(adapter), lie


def test_known_to_pass_whoever_recomputes_all_of_it(adapter: Path) -> None:
    """Nothing is signed: other events, with everything made to follow from them, are another honest manifest.

    README says so, and that a digest published elsewhere tells them apart. Should one of these fail one day,
    README may promise more.
    """
    from dpft.accounting.calibrate import guarantee
    from dpft.accounting.event import MechanismEvent

    genuine = manifest_in(adapter)
    published = verify(adapter).manifest_sha256
    for factor in ("noise", "examples"):
        document = copy.deepcopy(genuine)
        event, claim = document["events"][0], document["guarantee"]
        if factor == "noise":
            event["noise_multiplier"] *= 4
            document["mechanism"]["noise_multiplier"] *= 4
            document["mechanism"]["noise_standard_deviation"] *= 4
        else:
            document["data"]["rows"] *= 100
            event["sample_rate"] = document["mechanism"]["expected_batch_size"] / document["data"]["rows"]
            claim["delta"] = 1 / (2 * document["data"]["rows"])
        lower = guarantee([MechanismEvent(**event)], claim["delta"])
        claim |= {
            "epsilon": lower.epsilon,
            "replace_one_epsilon": lower.epsilon_replace_one,
            "second_epsilon": lower.epsilon_rdp,
        }
        forge(adapter, document)
        assert lower.epsilon < genuine["guarantee"]["epsilon"] / 2
        assert verified(adapter) == [], "known to pass"
        assert failures(verify(adapter, expect_sha256=published)) == ["published digest"]


def test_two_hundred_tensor_bytes_and_the_header(adapter: Path) -> None:
    """Listed anew or not: the tensors' hash finds each changed byte, the header's own checks the rest."""
    path = adapter / "adapter_model.safetensors"
    genuine, start = path.read_bytes(), read_header(path).data_start
    chance = random.Random(5)
    for place in chance.sample(range(start, len(genuine)), 200):
        assert _with_byte(adapter, genuine, place, chance) == ["tensors"], place
    missed = [
        place
        for place in sorted({*range(8), *chance.sample(range(start), 200), start - 1})
        if _with_byte(adapter, genuine, place, chance) == []
    ]
    # Blanks that align the tensors may be other blanks: they mean nothing.
    assert all(genuine[place:start].isspace() for place in missed)
    path.write_bytes(genuine + b"\0")
    assert failures_of_weights(adapter)
    path.write_bytes(genuine[:-1])
    assert failures_of_weights(adapter)


def _with_byte(folder: Path, genuine: bytes, place: int, chance: random.Random) -> list[str]:
    path = folder / "adapter_model.safetensors"
    value = genuine[place] ^ chance.randrange(1, 256)
    path.write_bytes(genuine[:place] + bytes([value]) + genuine[place + 1 :])
    return failures_of_weights(folder)


def failures_of_weights(folder: Path) -> list[str]:
    from dpft.export.proof.weights import weights_checks

    return [check.name for check in weights_checks(open_subject(folder)) if not check.ok]


def test_every_byte_of_a_listed_file_is_bound(adapter: Path) -> None:
    """The first tamperer: any byte of any file but ``files.json``, whose own damage shows as well."""
    chance = random.Random(6)
    for path in sorted(adapter.iterdir()):
        genuine = path.read_bytes()
        for _ in range(5):
            place = chance.randrange(len(genuine))
            path.write_bytes(genuine[:place] + bytes([genuine[place] ^ 1]) + genuine[place + 1 :])
            assert verify_quickly(adapter), (path.name, place)
        path.write_bytes(genuine)
    assert verify_quickly(adapter) == []


def test_what_is_exchanged_whole_is_found(adapter: Path, run_copy: Path) -> None:
    """Weights, manifest or configuration of another run; a file more, a file less."""
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    header = dict(read_header(weights).metadata)
    save_file({name: value * 2 for name, value in tensors.items()}, weights, metadata=header)
    assert "tensors" in failures_of_weights(adapter)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "header" in failures_of_weights(adapter)
    save_file(tensors, weights, metadata={**header, "remark": "x"})
    assert "header" in failures_of_weights(adapter)
    save_file({**tensors, "more": next(iter(tensors.values())).clone()}, weights, metadata=header)
    assert failures_of_weights(adapter) == ["tensors", "shapes"]
    save_file(tensors, weights, metadata=header)
    shutil.copy(weights, adapter / "second.safetensors")
    assert "tensors" in failures_of_weights(adapter)
    (adapter / "second.safetensors").unlink()
    (adapter / "adapter_config.json").unlink()
    assert {"files", "configuration"} <= set(verified(adapter))
    (run_copy / "files.json").unlink()
    assert verified(run_copy) == ["files"]


@pytest.mark.parametrize("value", [None, 10**400, -1, 1e400, "", "x" * 5000, [], {}, [[]] * 3, True, 0.5])
def test_no_value_anywhere_breaks_the_verifier(value: Any, adapter: Path) -> None:
    """It reports; it does not crash."""
    document = manifest_in(adapter)
    seen = set()
    for path, _ in places(document):
        costly = path[0] == "events" or path == ("guarantee", "delta")  # seconds, if a number is taken
        if named(path) in seen or (costly and isinstance(value, float | bool)):
            continue
        seen.add(named(path))
        write_manifest(adapter, changed(document, path, lambda _: value))
        assert all(check.detail for check in claim_checks(open_subject(adapter)))


def test_the_whole_verifier_reports_what_is_no_manifest(adapter: Path) -> None:
    for text in ("", "[]", "null", "{", '{"statement": "x", "statement": "y"}', "NaN", "[" * 5000):
        (adapter / "privacy.json").write_text(text)
        found = verify(adapter)
        assert {"manifest", "weights"} <= set(failures(found)), text
        assert all("\n" not in check.detail for check in found.checks)
