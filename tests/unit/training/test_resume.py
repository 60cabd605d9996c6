"""Row 19: a resumed run is the run that never stopped, and nothing is drawn, spent or forgotten twice."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dpft.errors import PrivacyError, StoreError
from dpft.privacy.noise import KeyStream, Purpose
from dpft.privacy.sampling import ShuffleSampler
from dpft.runs.active import ActiveRun
from dpft.runs.store import Store
from dpft.training import run as story
from dpft.training.checkpoint import Checkpoints
from dpft.training.learner import Learner
from dpft.training.run import resume, train
from tests.unit.training import resuming
from tests.unit.training.resuming import KEY, STEPS, DiesAfter, Killed, MakeSpec, killed, outcome, weights
from tests.unit.training.test_checkpoint import edit

MODES = [("lora", True), ("full", True), ("soft-prompt", True), ("full", False), ("lora", False)]


@pytest.mark.usefixtures("fixed_key")
@pytest.mark.parametrize(("mode", "private"), MODES)
def test_killed_after_every_step_it_ends_as_if_it_never_was(
    mode: str, private: bool, small: MakeSpec
) -> None:
    """Bit by bit: weights, ε, scores, and the exact losses in local-only."""
    spec = small(mode, private=private, dropout=0.0 if private else 0.3)
    whole = train(spec)
    run_id = killed(spec, 0)
    for step in range(1, STEPS + 1):
        dying = DiesAfter(step)
        with pytest.raises(Killed):
            resume(run_id, dying)
        assert dying.steps == [step]
    again = resume(run_id)
    assert (again.status, again.steps) == ("completed", STEPS)
    assert again.epsilon == whole.epsilon
    assert outcome(again) == outcome(whole)
    assert not (again.run_dir / "checkpoints").exists()


# -- what would not be exact is noticed: each of these is a way to get resume wrong


def forget_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Learner.restore
    monkeypatch.setattr(
        Learner,
        "restore",
        lambda self, applied, tensors, values: genuine(
            self, applied, {name: torch.zeros_like(value) for name, value in tensors.items()}, values
        ),
    )


def restart_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShuffleSampler, "skip", lambda self, steps: None)


def replay_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise and samples from the start of the stream again, though the steps go on."""

    class Replaying(KeyStream):
        first: int | None = None

        def begin(self, step: int, purpose: Purpose) -> None:
            self.first = self.first or step
            super().begin(step - self.first + 1, purpose)

    resuming.with_key(monkeypatch, lambda: Replaying(KEY))


@pytest.mark.usefixtures("fixed_key")
@pytest.mark.parametrize(
    ("private", "spoil"),
    [(True, forget_moments), (True, replay_noise), (False, restart_sampler)],
    ids=["moments", "noise", "sampler"],
)
def test_planted_ways_to_resume_wrongly_change_the_bits(
    private: bool,
    spoil: Callable[[pytest.MonkeyPatch], None],
    small: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = small("last-layer", private=private)
    expected = weights(train(spec))
    run_id = killed(spec, 2)
    shutil.copytree(Store().resolve(run_id).run_dir, store_aside(run_id))
    assert weights(resume(run_id)) == expected
    put_back(run_id)
    spoil(monkeypatch)
    assert weights(resume(run_id)) != expected


def test_planted_accountant_that_forgets_takes_no_step(
    small: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = killed(small(), 2)
    genuine = story.make_plan

    def forgetful(*arguments: Any, steps_taken: int = 0) -> Any:
        return genuine(*arguments)

    monkeypatch.setattr(story, "make_plan", forgetful)
    watching = DiesAfter()
    with pytest.raises(PrivacyError, match="the weights have 2 steps in them, the accountant has 0"):
        resume(run_id, watching)
    assert watching.steps == []


def test_every_process_has_a_key_of_its_own(small: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that go on from one checkpoint draw different noise; from one key they would not."""
    run_id = killed(small("last-layer"), 2)
    found = []
    for _ in range(2):
        shutil.copytree(Store().resolve(run_id).run_dir, store_aside(run_id))
        found.append(weights(resume(run_id)))
        put_back(run_id)
    assert found[0] != found[1]
    resuming.with_key(monkeypatch, lambda: KeyStream(KEY))
    for _ in range(2):
        shutil.copytree(Store().resolve(run_id).run_dir, store_aside(run_id))
        found.append(weights(resume(run_id)))
        put_back(run_id)
    assert found[2] == found[3]  # what the assertion above would refuse


def store_aside(run_id: str) -> Path:
    return Store().home / f"copy-of-{run_id}"


def put_back(run_id: str) -> None:
    """The run as it was before somebody went on with it: another fork."""
    place = Store().home / "runs" / run_id
    shutil.rmtree(place)
    store_aside(run_id).rename(place)
    Store().rebuild()


# -- nothing secret is on the disk


def secrets_in(folder: Path, stream: list[KeyStream]) -> list[str]:
    """Files below ``folder`` with a key, or the state of a generator, in them."""
    keys = [made._cipher.key for made in stream]
    states = [torch.get_rng_state().numpy().tobytes()]
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if any(secret in content or secret.hex().encode() in content for secret in (*keys, *states)):
            found.append(path.name)
    return found


def test_no_key_and_no_generator_is_ever_written(small: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[KeyStream] = []
    genuine = KeyStream.__init__

    def noting(self: KeyStream, key: bytes | None = None) -> None:
        genuine(self, key)
        made.append(self)

    monkeypatch.setattr(KeyStream, "__init__", noting)
    run_id = killed(small(), 2)
    folder = Store().resolve(run_id).run_dir
    assert len(made) == 1
    assert {path.name for path in folder.glob("checkpoints/*/*")} == {
        "files.json",
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    }
    assert secrets_in(folder, made) == []
    for path in folder.glob("checkpoints/*/*.json"):
        for word in ("key", "seed", "rng", "random", "generator"):
            assert word not in path.read_text().lower(), path
    # The very thing that must not be there would be found.
    (folder / "local-only" / "noise").write_bytes(b"..." + made[0]._cipher.key)
    (folder / "checkpoints" / "rng.json").write_text(torch.get_rng_state().numpy().tobytes().hex())
    assert sorted(secrets_in(folder, made)) == ["noise", "rng.json"]


# -- however it was stopped


@pytest.mark.usefixtures("fixed_key")
def test_an_interrupted_run_goes_on(small: MakeSpec) -> None:
    """By Ctrl-C, without having asked for checkpoints; what it published is replaced by what it becomes."""
    whole = train(small())
    spec = small(every=None)
    half = train(spec, DiesAfter(2, KeyboardInterrupt))
    assert (half.status, half.steps) == ("interrupted", 2)
    assert "checkpoints" not in str(Store().files(half))
    early = weights(half)
    assert [path.name for path in (half.run_dir / "checkpoints").iterdir()] == ["step-000002"]
    edit(seconds=1000.0)(half.run_dir / "checkpoints" / "step-000002")
    again = resume(half.run_id)
    assert (again.status, again.steps, again.epsilon) == ("completed", STEPS, whole.epsilon)
    assert half.epsilon is not None
    assert again.epsilon is not None
    assert half.epsilon < again.epsilon
    assert outcome(again) == outcome(whole)
    assert weights(again) != early
    assert again.seconds is not None
    assert again.seconds > 1000


@pytest.mark.usefixtures("fixed_key")
@pytest.mark.parametrize("where", ["in a micro-batch", "in the optimizer"])
def test_a_signal_within_a_step_leaves_whole_steps(
    where: str, small: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is given up before its release, or taken to its end; never half of it."""
    whole = train(small())
    count, at = 0, 2 if where == "in the optimizer" else 1

    def strike(then: Callable[..., Any]) -> Callable[..., Any]:
        def struck(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                signal.raise_signal(signal.SIGINT)
            return then(*arguments, **more)

        return struck

    with monkeypatch.context() as patched:
        if where == "in the optimizer":
            patched.setattr(torch.optim.AdamW, "step", strike(torch.optim.AdamW.step))
        else:
            patched.setattr("dpft.training.loop.collate", strike(story.fit.__globals__["collate"]))
        half = train(small())
    assert half.status == "interrupted"
    assert half.steps == (2 if where == "in the optimizer" else 0)
    assert weights(resume(half.run_id)) == weights(whole)


@pytest.mark.usefixtures("fixed_key")
@pytest.mark.parametrize("moment", ["before the manifest", "after the manifest"])
def test_killed_while_it_is_published(moment: str, small: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step is taken, and the adapter may be there; going on publishes, and takes no step."""
    whole = train(small())
    genuine = ActiveRun.finish

    def dies(self: ActiveRun, status: Any, *, manifest: Any, **fields: Any) -> Any:
        if manifest is not None and moment == "after the manifest":
            (self.directory / ".adapter").mkdir()  # of an attempt before
            with monkeypatch.context() as patched:
                patched.setattr("dpft.runs.active.save_record", dying)
                return genuine(self, status, manifest=manifest, **fields)
        if manifest is not None:
            raise Killed
        self.close()  # SIGKILL leaves no time to say how it ended
        return self.record

    def dying(record: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(ActiveRun, "finish", dies)
        run_id = killed(small(), -1)
    crashed = Store().resolve(run_id)
    assert crashed.status == "crashed"
    assert (crashed.run_dir / "privacy.json").exists() == (moment == "after the manifest")
    watching = DiesAfter()
    again = resume(run_id, watching)
    assert watching.steps == []
    assert (again.status, again.epsilon) == ("completed", whole.epsilon)
    assert outcome(again) == outcome(whole)


@pytest.mark.usefixtures("fixed_key")
def test_a_full_disk_stops_the_run_which_goes_on_later(
    small: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(small())
    genuine = os.fsync

    def full(descriptor: int) -> None:
        if "step-000003" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        genuine(descriptor)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to tell files apart")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device") as caught:
            train(small())
    assert caught.value.exit_code == 1
    (failed, _) = Store().list()
    assert (failed.status, failed.steps, failed.epsilon) == ("failed", 3, None)
    found = Checkpoints(failed.run_dir / "checkpoints").newest()
    assert found is not None
    assert found.state.step == 2
    assert outcome(resume(failed.run_id)) == outcome(whole)


def test_without_a_checkpoint_it_begins_again(small: MakeSpec) -> None:
    run_id = killed(small(every=None), 2)
    watching = DiesAfter()
    record = resume(run_id, watching)
    assert watching.steps == [1, 2, 3, 4]
    assert "has no checkpoint" in watching.warnings[0]
    assert (record.status, record.steps) == ("completed", STEPS)
    assert len(outcome(record)["local"]) == STEPS
