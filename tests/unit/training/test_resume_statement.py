"""What a run that went on says of the processes before, and what stands while it does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD
from dpft.export.proof import verify
from dpft.runs.manifest import UNJUDGED, Manifest
from dpft.runs.manifest_consistency import contradictions
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.tables import EXPORT_FORMATS
from dpft.training.composition import composed_epsilon
from dpft.training.run import resume, train
from tests.unit.training.resuming import STEPS, DiesAfter, Killed, MakeSpec

pytestmark = pytest.mark.slow


def manifest_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "privacy.json").read_bytes())
    return found


def holds(record: RunRecord) -> dict[str, Any]:
    """The manifest of a run that verifies, alone and by the registry's row."""
    row = Store().resolve(record.run_id)
    assert [f"{check.name}: {check.detail}" for check in verify(row.run_dir, row).failed] == []
    assert verify(row.run_dir / "adapter").ok
    return manifest_in(row.run_dir)


def problems(document: dict[str, Any], **tuning: Any) -> list[str]:
    """What a manifest with another group ``tuning`` says against itself; None takes a field out."""
    group = {k: v for k, v in {**document["tuning"], **tuning}.items() if v is not None}
    unsaid = {key: value for key, value in document.items() if key != "statement"}
    return list(contradictions(Manifest.model_validate({**unsaid, "tuning": group}, context=UNJUDGED)))


def cost(manifest: dict[str, Any], steps: int) -> float:
    event = MechanismEvent(**manifest["events"][0]).with_steps(steps)
    return PLD.epsilon([event], manifest["guarantee"]["delta"])


@pytest.mark.parametrize("public_n", [None, 64])
def test_a_run_that_just_went_on_says_how_often_and_lost_nothing(
    public_n: int | None, small: MakeSpec
) -> None:
    spec = small("last-layer", **({} if public_n is None else {"public_n": public_n}))
    record = resume(train(spec, DiesAfter(2, KeyboardInterrupt)).run_id)
    manifest = holds(record)
    told = manifest["tuning"]
    assert (told["resumptions"], told["lost_steps"]) == (1, 0)
    assert "supersedes_steps" not in told
    assert "earlier adapter" not in manifest["statement"]
    assert holds(train(spec))["tuning"]["resumptions"] == 0


@pytest.mark.parametrize("public_n", [None, 64])
@pytest.mark.parametrize("gone", ["the last checkpoint", "all checkpoints"])
def test_two_adapters_of_one_run_are_told_and_composed(
    gone: str, public_n: int | None, small: MakeSpec, tmp_path: Path
) -> None:
    """The first was given away after three steps; the second has other steps from the third on, or all."""
    spec = small("last-layer", **({} if public_n is None else {"public_n": public_n}))
    first = train(spec, DiesAfter(3, KeyboardInterrupt))
    given = Path(shutil.copytree(first.run_dir / "adapter", tmp_path / "given"))
    checkpoints = first.run_dir / "checkpoints"
    shutil.rmtree(checkpoints / "step-000003" if gone == "the last checkpoint" else checkpoints)
    lost = 1 if gone == "the last checkpoint" else 3
    half = resume(first.run_id, DiesAfter(3, KeyboardInterrupt))  # and once more, from where it is
    assert holds(half)["tuning"]["supersedes_steps"] == 3
    last = resume(first.run_id)
    manifest = holds(last)
    told = manifest["tuning"]
    assert manifest_in(given)["identity"]["run_id"] == manifest["identity"]["run_id"]
    assert (told["resumptions"], told["lost_steps"], told["supersedes_steps"]) == (2, lost, 3)
    steps = manifest["events"][0]["steps"]
    assert told["epsilon_with_lost_steps"] == cost(manifest, steps + lost)
    assert manifest["guarantee"]["epsilon"] == cost(manifest, steps) < told["epsilon_with_lost_steps"]
    assert "an earlier adapter of this run was made of other steps" in manifest["statement"]
    from dpft.runs.ledger import Ledger

    charged = composed_epsilon(Ledger().of_run(last.run_id), manifest["guarantee"]["delta"])
    assert told["epsilon_with_lost_steps"] == pytest.approx(charged, rel=1e-6)

    # Planted: a manifest that hides it, or says that it cost less.
    assert problems(manifest) == []
    assert problems(manifest, lost_steps=0)
    assert problems(manifest, resumptions=0)
    assert problems(manifest, epsilon_with_lost_steps=None)
    assert problems(manifest, epsilon_with_lost_steps=0.99 * manifest["guarantee"]["epsilon"])


def test_a_lower_cost_of_lost_or_planned_steps_is_found(small: MakeSpec, tmp_path: Path) -> None:
    from tests.unit.export.proof.conftest import forge

    first = train(small("last-layer"), DiesAfter(3, KeyboardInterrupt))
    shutil.rmtree(first.run_dir / "checkpoints")
    half = resume(first.run_id, DiesAfter(2, KeyboardInterrupt))
    adapter = Path(shutil.copytree(half.run_dir / "adapter", tmp_path / "copy"))
    genuine = manifest_in(adapter)
    for group, field, check in (
        ("guarantee", "planned_epsilon", "planned epsilon"),
        ("tuning", "epsilon_with_lost_steps", "epsilon with lost steps"),
    ):
        document = json.loads(json.dumps(genuine))
        document[group][field] *= 0.99
        forge(adapter, document)
        assert [found.name for found in verify(adapter).failed] == [check]
    forge(adapter, genuine)
    assert verify(adapter).ok


@pytest.mark.parametrize("how", ["it fails", "it is killed"])
def test_a_true_statement_stands_until_it_is_replaced(
    how: str, small: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, resumed, dead: what verifies and what is exported is the interruption's adapter."""
    from dpft.runs.active import ActiveRun

    first = train(small(), DiesAfter(2, KeyboardInterrupt))
    stated = manifest_in(first.run_dir)
    with monkeypatch.context() as patched:
        if how == "it is killed":  # nobody ends it, and its lock goes
            patched.setattr(ActiveRun, "__exit__", lambda self, *_: self.close())
        with pytest.raises(Killed):
            resume(first.run_id, DiesAfter(3, Killed))
    row = Store().resolve(first.run_id)
    assert row.status == ("failed" if how == "it fails" else "crashed")
    assert holds(row) == stated
    assert (row.epsilon, row.steps, row.metrics) == (stated["guarantee"]["epsilon"], 2, first.metrics)
    export = EXPORT_FORMATS.get("peft")(row, Store().spec(row), tmp_path / "export")
    assert manifest_in(export.path) == stated
    assert verify(export.path).ok
    assert holds(resume(first.run_id))["events"][0]["steps"] == STEPS


def test_begun_again_and_stopped_before_its_first_step_it_is_what_it_was(small: MakeSpec) -> None:
    first = train(small("last-layer"), DiesAfter(2, KeyboardInterrupt))
    stated = manifest_in(first.run_dir)
    shutil.rmtree(first.run_dir / "checkpoints")
    again = resume(first.run_id, DiesAfter(0, KeyboardInterrupt))
    assert again.status == "interrupted"
    assert holds(again) == stated


def test_a_run_without_an_adapter_has_no_statement_while_it_goes_on(small: MakeSpec) -> None:
    """That nothing was released is true no longer."""
    first = train(small("last-layer"), DiesAfter(0, KeyboardInterrupt))
    assert "Nothing was released" in manifest_in(first.run_dir)["statement"]
    with pytest.raises(Killed):
        resume(first.run_id, DiesAfter(2, Killed))
    assert not (first.run_dir / "privacy.json").exists()
    assert Store().resolve(first.run_id).epsilon is None


def test_an_interruption_is_told_as_a_choice_and_bounded(small: MakeSpec) -> None:
    record = train(small("last-layer"), DiesAfter(3, KeyboardInterrupt))
    manifest = holds(record)
    [selection] = [item for item in manifest["data_accesses"] if item["access"] == "selection"]
    assert selection["classification"] == "unaccounted"
    assert f"stopped by the user after 3 of {STEPS} planned steps" in selection["detail"]
    assert "stops nowhere early" not in selection["detail"]
    claim = manifest["guarantee"]
    assert claim["planned_epsilon"] == cost(manifest, STEPS) > claim["epsilon"] == cost(manifest, 3)
    del claim["planned_epsilon"]  # planted
    assert any("planned steps is missing" in problem for problem in problems(manifest))
    whole = holds(train(small("last-layer")))
    assert "planned_epsilon" not in whole["guarantee"]
    assert any("stops nowhere early" in item["detail"] for item in whole["data_accesses"])


def test_a_manifest_of_before_is_read_as_it_was(small: MakeSpec) -> None:
    """Schema 1.2 had neither the earlier processes nor ε of all planned steps."""
    document = manifest_in(train(small("last-layer"), DiesAfter(3, KeyboardInterrupt)).run_dir)
    document["identity"]["schema_version"] = "1.2"
    del document["guarantee"]["planned_epsilon"]
    for field in ("resumptions", "lost_steps"):
        del document["tuning"][field]
    read = Manifest.model_validate(document)
    assert read.sentence() == document["statement"]
    assert "resumptions" not in read.to_dict()["tuning"]
