"""Whole runs through the library: what they leave, what they claim, and what they never write down."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from dpft.accounting.event import MechanismEvent
from dpft.accounting.pld import PLD
from dpft.accounting.rdp import RDP
from dpft.engines import ordinary
from dpft.engines.bookkeeping import ENGINE as BOOKKEEPING
from dpft.errors import ModelError, PrivacyError, StoreError, UsageError
from dpft.privacy.clipping import FlatClipper
from dpft.privacy.noise import KeyStream
from dpft.runs.manifest import Manifest, manifest_sha256
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.tables import ENGINES, MODES
from dpft.training import run as story
from dpft.training.observer import Observer, Progress
from dpft.training.run import plan_run, train
from dpft.tuning.base import restore
from dpft.tuning.files import adapter_sha256
from tests import models

SEALED = {"README.md", "files.json", "privacy.json"}
PEFT_FILES = {"adapter_config.json", "adapter_model.safetensors"}
ADAPTER_FILES = {
    "full": {"trained_parameters.safetensors"},
    "last-layer": {"trained_parameters.safetensors"},
    "soft-prompt+lora": {f"{part}/{name}" for part in ("lora", "prompt") for name in PEFT_FILES},
    "prefix+lora": {f"{part}/{name}" for part in ("lora", "prompt") for name in PEFT_FILES},
}


@pytest.fixture
def spec(tiny_model: Path, glue_dir: Path) -> Any:
    def make(mode: str = "lora", *, private: bool = True, epochs: float = 1, **changes: Any) -> RunSpec:
        return RunSpec(
            data=DataSpec(dataset="sst2", data_dir=str(glue_dir), max_length=32),
            model=ModelSpec(checkpoint=str(tiny_model)),
            tuning=TuningSpec(
                mode=mode, lora_r=2, num_prepend_tokens=MODES.get(mode).defaults.num_prepend_tokens and 3
            ),
            privacy=PrivacySpec(enabled=private, **changes),
            optimisation=OptimisationSpec(learning_rate=1e-2, batch_size=20, epochs=epochs, seed=7),
            hardware=HardwareSpec(precision="fp32", micro_batch_tokens=200),
        )

    return make


class StopAfter(Observer):
    """Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def started(self, facts: Any) -> None:
        if self.steps == 0:
            raise KeyboardInterrupt

    def progressed(self, progress: Progress) -> None:
        if progress.step == self.steps:
            raise KeyboardInterrupt


def manifest_of(record: RunRecord) -> dict[str, Any]:
    return Store().manifest(record)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("private", [True, False], ids=["private", "ordinary"])
@pytest.mark.parametrize("mode", MODES.names())
def test_every_mode_trains_and_leaves_a_whole_run(mode: str, private: bool, spec: Any) -> None:
    record = train(spec(mode, private=private))
    assert record.status == "completed"
    assert record.steps == 3
    assert files_below(record.run_dir / "adapter") == SEALED | ADAPTER_FILES.get(mode, PEFT_FILES)
    adapter = {f"adapter/{name}" for name in files_below(record.run_dir / "adapter")}
    assert files_below(record.run_dir) - adapter == {
        ".lock",
        "config.yaml",
        "files.json",
        "local-only/README",
        "local-only/training.jsonl",
        "metrics.jsonl",
        "privacy.json",
        "run.json",
    }
    manifest = Manifest.model_validate(manifest_of(record))
    assert manifest.evidence.tensors_sha256 == adapter_sha256(record.run_dir / "adapter")
    if private:
        assert manifest.guarantee is not None
        assert record.epsilon == manifest.guarantee.epsilon <= 8.0
        event = MechanismEvent(**manifest_of(record)["events"][0])
        assert PLD.epsilon([event], manifest.guarantee.delta) == record.epsilon
        assert RDP.epsilon([event], manifest.guarantee.delta) == manifest.guarantee.second_epsilon
        assert event.steps == record.steps
    else:
        assert record.epsilon is None
        assert "epsilon" not in json.dumps(manifest_of(record))
    for path in (record.run_dir / "adapter").rglob("*.safetensors"):
        with safe_open(path, "pt") as opened:
            header = json.loads(opened.metadata()["dpft"])
            assert opened.metadata()["format"] == "pt"
        assert header["run_id"] == record.run_id
        assert header["manifest_sha256"] == manifest_sha256(manifest_of(record))
        assert header.get("epsilon") == record.epsilon


@pytest.mark.parametrize("mode", MODES.names())
def test_a_run_is_restored_from_its_files(mode: str, spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reloaded model gives the trained model's logits."""
    kept: list[Any] = []
    genuine = story.assemble
    monkeypatch.setattr(story, "assemble", lambda *args: kept.append(genuine(*args)) or kept[0])
    made = spec(mode)
    record = train(made)
    ids = torch.tensor([[2, 9, 8, 7, 3], [2, 5, 3, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    model, _ = restore(made.model, made.tuning, kept[0].task.labels, record.run_dir / "adapter")
    with torch.no_grad():
        expected = kept[0].model(**inputs).logits
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=1e-5)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_no_seed_no_path_and_no_exact_number_leaves_local_files(spec: Any) -> None:
    """Row 15, and the release surface: what may be shared holds neither secrets nor exact private numbers."""
    record = train(spec())
    shared = [record.run_dir / "privacy.json", record.run_dir / "metrics.jsonl"]
    shared += [path for path in (record.run_dir / "adapter").rglob("*") if path.is_file()]
    for path in shared:
        text = path.read_bytes().decode("latin-1")
        assert str(record.run_dir.parent.parent) not in text, path
        assert str(spec().model.checkpoint) not in text, path
        for word in ("rng", "random_state", 'batch_size": ', 'loss"', "median_norm"):
            assert word not in text.replace("expected_batch_size", ""), (path, word)
        # The word may stand in a sentence about the generator; never as a key with a value.
        assert not re.search(r'"[a-z_]*seed[a-z_]*"\s*:', text), path


def test_same_seed_twice_gives_other_weights(spec: Any) -> None:
    """Row 15: the seed reaches initialisation, never noise or sampling."""
    digests = {manifest_of(train(spec()))["evidence"]["tensors_sha256"] for _ in range(2)}
    assert len(digests) == 2
    ordinary = {manifest_of(train(spec(private=False)))["evidence"]["tensors_sha256"] for _ in range(2)}
    assert len(ordinary) == 1


@pytest.mark.parametrize("steps", [1, 4])
def test_interrupted_run_states_the_steps_really_taken(steps: int, spec: Any) -> None:
    record = train(spec(epochs=3), StopAfter(steps))
    assert record.status == "interrupted"
    assert record.steps == steps
    assert record.steps_planned == 9
    manifest = manifest_of(record)
    assert manifest["events"][0]["steps"] == steps
    event = MechanismEvent(**manifest["events"][0])
    assert record.epsilon == PLD.epsilon([event], manifest["guarantee"]["delta"]) < 8.0
    assert f"for the {steps} of 9 planned steps" in manifest["statement"]
    assert (record.run_dir / "adapter" / "adapter_model.safetensors").is_file()


def test_interrupted_before_the_first_step_releases_nothing(spec: Any) -> None:
    record = train(spec(), StopAfter(0))
    assert record.status == "interrupted"
    assert record.steps == 0
    assert manifest_of(record)["statement"].startswith("Nothing was released")
    assert not (record.run_dir / "adapter").exists()


def test_epsilon_so_far_never_falls_below_the_truth(spec: Any) -> None:
    told: list[Progress] = []

    class Listening(Observer):
        def progressed(self, progress: Progress) -> None:
            told.append(progress)

    record = train(spec(epochs=10), Listening())
    event = MechanismEvent(**manifest_of(record)["events"][0])
    for progress in told[:: len(told) // 5]:
        assert progress.epsilon is not None
        assert progress.epsilon >= PLD.epsilon([event.with_steps(progress.step)], record.delta or 0.0)
    assert told[-1].epsilon == record.epsilon
    assert set(told[-1].metrics) == {"accuracy"}


def test_noise_multiplier_instead_of_a_target(spec: Any) -> None:
    record = train(spec(target_epsilon=None, noise_multiplier=3.0))
    assert record.noise_multiplier == 3.0
    assert "target_epsilon" not in manifest_of(record)["guarantee"]


def test_a_parameter_that_never_moves_fails_the_run(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 10: a release that leaves one parameter out is noticed, and the run is not called completed."""
    genuine = story.fit

    def forgetting(work: Any, *rest: Any) -> None:
        release = work.plan.release

        def partial(draw: Any, sums: Any) -> Any:
            out = release(draw, sums)
            out.pop(next(iter(out)))
            return out

        work.plan.release = partial
        genuine(work, *rest)

    monkeypatch.setattr(story, "fit", forgetting)
    with pytest.raises(PrivacyError, match="did not move"):
        train(spec())
    assert Store().list()[0].status == "failed"


def test_no_entropy_no_run(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpft.errors import EntropyError

    def refuse(self: KeyStream, key: bytes | None = None) -> None:
        raise EntropyError("none", hint="")

    monkeypatch.setattr(KeyStream, "__init__", refuse)
    with pytest.raises(EntropyError):
        train(spec())
    assert Store().list() == []


def test_plan_trains_nothing(spec: Any) -> None:
    facts = plan_run(spec())
    assert facts.steps == 3
    assert facts.planned_epsilon is not None
    assert facts.planned_epsilon <= 8.0
    assert Store().list() == []


def test_too_long_for_the_model_is_refused_before_anything_runs(spec: Any) -> None:
    made = spec("soft-prompt")
    long = made.model_copy(update={"data": made.data.model_copy(update={"max_length": 63})})
    with pytest.raises(UsageError, match="exceeds the model's 64 positions") as caught:
        train(long)
    assert "at most 61" in caught.value.hint
    assert Store().list() == []


def test_a_changed_base_model_is_noticed(spec: Any) -> None:
    made = spec()
    record = train(made)
    with pytest.raises(ModelError, match="not the one that this run was trained on"):
        restore(
            made.model,
            made.tuning,
            ("negative", "positive"),
            record.run_dir / "adapter",
            base_sha256="0" * 64,
        )


class Spoiled:
    """An engine that does something else than the real one."""

    name = "spoiled"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def session(self, model: Any, parameters: Any, clipper: Any, precision: str) -> Any:
        if self.kind == "unclipped":
            return ordinary.session(model, parameters, precision)
        bound = FlatClipper(clipper.sensitivity * 2) if self.kind == "twice C" else clipper
        return BOOKKEEPING.session(model, parameters, bound, precision)


@pytest.mark.parametrize("kind", ["unclipped", "twice C"])
def test_planted_engines_that_do_not_clip_train_nothing(
    kind: str, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the preflight; and, were that gone too, by the loop, which wants the plan's own clipper."""
    monkeypatch.setattr(ENGINES, "get", lambda name: Spoiled(kind))
    with pytest.raises(PrivacyError, match="not exact on"):
        train(spec())
    assert Store().list() == []
    monkeypatch.setattr(story, "settle", lambda spec, assembled: (spec, ()))
    with pytest.raises(PrivacyError, match="does not clip as the plan accounts for"):
        train(spec())
    (failed,) = Store().list()
    assert (failed.status, failed.steps, failed.epsilon) == ("failed", 0, None)


def test_one_example_moves_the_weights_by_at_most_its_share(
    spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real run, noise silenced, plain descent, a batch of one example: at most lr·C/B a step."""
    rate, clip = 0.5, 0.01

    class Silent(KeyStream):
        def normals(self, count: int) -> torch.Tensor:
            return torch.zeros(count, dtype=torch.float64)

    def lonely(*arguments: Any) -> Any:
        plan = genuine(*arguments, stream=Silent())
        plan._sampler.draw = lambda: np.array([3])
        return plan

    def descent(parameters: Any, optimisation: Any, steps: int) -> Any:
        optimizer = torch.optim.SGD(parameters.values(), lr=rate)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1.0)

    genuine, kept = story.make_plan, []
    assembled = story.assemble
    monkeypatch.setattr(story, "make_plan", lonely)
    monkeypatch.setattr("dpft.training.loop.make_optimizer", descent)
    monkeypatch.setattr(story, "assemble", lambda *a: kept.append(assembled(*a)) or kept[0])
    weights: list[torch.Tensor] = []

    class Watching(Observer):
        def started(self, facts: Any) -> None:
            weights.append(models.flat(kept[0].parameters))

        def progressed(self, progress: Progress) -> None:
            weights.append(models.flat(kept[0].parameters))

    monkeypatch.setattr(story, "_check_moved", lambda *arguments: None)
    train(spec(max_grad_norm=clip), Watching())
    for before, after in pairwise(weights):
        assert 0 < (after - before).norm() <= rate * clip / 20 * (1 + 1e-3)


def test_steps_of_a_run_that_fails_late_are_not_forgotten(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **more: Any) -> Any:
        raise StoreError("the disk is full", hint="")

    monkeypatch.setattr(story, "declare", broken)
    with pytest.raises(StoreError):
        train(spec())
    (failed,) = Store().list()
    assert (failed.status, failed.steps) == ("failed", 3)
    assert not (failed.run_dir / ".adapter").exists()
    assert not (failed.run_dir / "adapter").exists()


def test_shared_metrics_hold_only_what_may_be_shared(spec: Any) -> None:
    record = train(spec(epochs=2))
    lines = [json.loads(line) for line in (record.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {key for line in lines for key in line} == {
        "step", "epsilon", "validation_accuracy", "validation_rows",
    }  # fmt: skip
    assert {line["validation_rows"] for line in lines} == {20}
