"""Checkpoints on the disk: whole or not there, and nothing in them is believed without a look."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dpft.errors import PrivacyError, StoreError
from dpft.training import checkpoint
from dpft.training.checkpoint import Checkpoint, Checkpoints, CheckpointState, Origin
from dpft.training.learner import Learner

DIGEST = "ab" * 32


def origin(*, private: bool = True) -> Origin:
    event = {"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 9}
    return Origin(
        run_id="0123456789abcdef",
        spec=DIGEST,
        dataset=DIGEST,
        examples=DIGEST,
        base_model=DIGEST,
        steps_planned=9,
        event=event if private else None,  # type: ignore[arg-type]
    )


def model(seed: int = 0) -> tuple[dict[str, torch.nn.Parameter], Learner]:
    torch.manual_seed(seed)
    parameters = {"w": torch.nn.Parameter(torch.randn(3, 4)), "b": torch.nn.Parameter(torch.randn(4))}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 / (1 + done))
    return parameters, Learner(parameters, optimizer, scheduler)


def step(parameters: dict[str, torch.nn.Parameter], learner: Learner) -> None:
    for number, parameter in enumerate(parameters.values()):
        parameter.grad = torch.full_like(parameter, 0.5 + number + learner.applied)
    learner.step()


def written(folder: Path, steps: int = 3, *, private: bool = True, random: Any = None) -> Any:
    """Checkpoints after each of some steps; the parameters and learner they are of."""
    parameters, learner = model()
    for _ in range(steps):
        step(parameters, learner)
        state = CheckpointState(
            step=learner.applied,
            origin=origin(private=private),
            learner=learner.values(),
            seconds=1.5,
            software={"torch": "2"},
        )
        Checkpoints(folder).write(state, parameters, learner.tensors(), random)
    return parameters, learner


def newest(folder: Path) -> Checkpoint:
    found = Checkpoints(folder).newest()
    assert found is not None
    return found


def test_what_is_restored_goes_on_bit_by_bit(tmp_path: Path) -> None:
    parameters, learner = written(tmp_path / "checkpoints")
    other, begun = model(seed=1)
    newest(tmp_path / "checkpoints").restore(other, begun)
    for _ in range(4):
        for name in parameters:
            assert torch.equal(parameters[name], other[name])
        step(parameters, learner)
        step(other, begun)


@pytest.mark.parametrize("lost", ["moments", "schedule", "counters"])
def test_planted_losses_of_optimizer_state_show(tmp_path: Path, lost: str) -> None:
    parameters, learner = written(tmp_path)
    found = newest(tmp_path)
    other, begun = model(seed=1)
    found.restore(other, begun)
    if lost == "schedule":
        begun._scheduler.last_epoch = 0
    for parameter in other.values():
        for key, value in begun._optimizer.state[parameter].items():
            if lost == {"step": "counters"}.get(key, "moments"):
                value.zero_()
    for _ in range(2):  # a schedule's loss shows in the step after next
        step(parameters, learner)
        step(other, begun)
    assert not torch.equal(parameters["w"], other["w"])


def test_the_last_two_are_kept_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    written(folder, 4)
    assert sorted(path.name for path in folder.iterdir()) == ["step-000003", "step-000004"]
    for path in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert newest(folder).state.step == 4
    Checkpoints(folder).remove()
    assert Checkpoints(folder).newest() is None


def test_an_older_one_goes_only_when_the_newer_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, 2)

    class Died(BaseException):
        pass

    def dies(*arguments: Any, **more: Any) -> None:
        raise Died

    monkeypatch.setattr(checkpoint, "publish_dir", dies)
    with pytest.raises(Died):
        written(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    written(tmp_path, 1)
    (tmp_path / ".step-000002-deadbeef.tmp").mkdir()
    (tmp_path / ".step-000002-deadbeef.tmp" / "weights.safetensors").write_bytes(b"half")
    assert newest(tmp_path).state.step == 1
    written(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def full_disk(*arguments: Any, **more: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_in_rust(*arguments: Any, **more: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "refuse"),
    [
        ("dpft.training.checkpoint.save_file", full_disk_in_rust),
        ("os.fsync", full_disk),
        ("os.replace", full_disk),
        ("pathlib.Path.mkdir", full_disk),
    ],
)
def test_a_full_disk_leaves_nothing_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, refuse: Callable[..., None]
) -> None:
    written(tmp_path, 2)
    with monkeypatch.context() as patched:
        patched.setattr(where, refuse)
        with pytest.raises(StoreError, match="No space left") as caught:
            written(tmp_path, 3)
    assert "dpft train --resume" in caught.value.hint
    assert "\n" not in caught.value.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]
    assert newest(tmp_path).state.step == 2


# -- no secret is written, and none is read


def test_a_private_run_keeps_no_generator(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="no generator state"):
        written(tmp_path, 1, random=torch.get_rng_state())
    assert not list(tmp_path.iterdir())


def test_without_privacy_the_generator_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(3)
    written(tmp_path, 1, private=False, random=torch.get_rng_state())
    torch.manual_seed(3)
    expected = torch.rand(3)
    other, begun = model()
    newest(tmp_path).restore(other, begun)
    assert torch.equal(torch.rand(3), expected)


# -- what is not as it was written is refused


def rewrite_table(folder: Path) -> None:
    """Make the table agree with the files again, as somebody who means it would."""
    table = [entry.to_json() for entry in checkpoint.file_table(folder, exclude={"files.json"})]
    document = {"schema_version": "1.0", "files": table}
    (folder / "files.json").write_text(json.dumps(document))


def flip(name: str, place: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1
        (folder / name).write_bytes(data)

    return damage


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def link(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def link_folder(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere", target_is_directory=True)


def edit(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        document = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**document, **changes}))
        rewrite_table(folder)

    return damage


def add_file(folder: Path) -> None:
    (folder / "extra.bin").write_bytes(b"x")
    rewrite_table(folder)


def add_generator(folder: Path) -> None:
    save_file({"torch": torch.get_rng_state()}, folder / "random.safetensors")
    rewrite_table(folder)


def tensors(name: str, values: dict[str, torch.Tensor]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        save_file(values, folder / name)
        rewrite_table(folder)

    return damage


WEIGHTS = {"w": torch.zeros(3, 4), "b": torch.zeros(4)}
MOMENTS = {
    f"{name}:{kind}": torch.zeros(() if kind == "step" else value.shape)
    for name, value in WEIGHTS.items()
    for kind in ("step", "exp_avg", "exp_avg_sq")
}
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit of the weights": (flip("weights.safetensors", -1), "not those it was written with"),
    "a flipped bit of the state": (flip("state.json", -9), "."),
    "a flipped bit of the table": (flip("files.json", 60), "."),
    "a file cut short": (cut, "not those it was written with"),
    "a missing file": (
        lambda folder: (folder / "optimizer.safetensors").unlink(),
        "not those of a checkpoint",
    ),
    "no state": (lambda folder: (folder / "state.json").unlink(), "no file"),
    "no table": (lambda folder: (folder / "files.json").unlink(), "no file"),
    "an added file": (add_file, "not those of a checkpoint"),
    "a link to a file": (link, "symbolic link"),
    "a link to a folder": (link_folder, "symbolic link"),
    "another step": (edit(step=7), "it is of step 7"),
    "a newer schema": (edit(schema_version="2.0"), "another version"),
    "an unknown field": (edit(random_state="00"), "not valid"),
    "a step that is no number": (edit(step="two"), "not valid"),
    "a generator in a private run's": (add_generator, "generator"),
    "other weights": (tensors("weights.safetensors", {**WEIGHTS, "c": torch.zeros(2)}), "differ in c"),
    "missing weights": (tensors("weights.safetensors", {"w": WEIGHTS["w"]}), "differ in b"),
    "weights of another shape": (
        tensors("weights.safetensors", {**WEIGHTS, "b": torch.zeros(1, 4)}),
        r"b is torch.float32 of shape \(1, 4\)",
    ),
    "weights of another type": (
        tensors("weights.safetensors", {**WEIGHTS, "b": torch.zeros(4, dtype=torch.float64)}),
        "b is torch.float64",
    ),
    "a state of something else": (
        tensors("optimizer.safetensors", {**MOMENTS, "c:exp_avg": torch.zeros(2)}),
        "a state of 'c'",
    ),
    "less state of one": (
        tensors("optimizer.safetensors", {k: v for k, v in MOMENTS.items() if k != "b:exp_avg"}),
        "more of it than others",
    ),
    "a state of another shape": (
        tensors("optimizer.safetensors", {**MOMENTS, "b:exp_avg": torch.zeros(5)}),
        "b:exp_avg is",
    ),
    "a state that counts": (
        tensors("optimizer.safetensors", {**MOMENTS, "b:exp_avg": torch.zeros(4, dtype=torch.int64)}),
        "b:exp_avg is",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_not_as_it_was_written_is_refused(tmp_path: Path, what: str) -> None:
    damage, message = DAMAGES[what]
    folder = tmp_path / "checkpoints"
    written(folder, 2)
    damage(folder / "step-000002")
    other, begun = model(seed=1)
    with pytest.raises(StoreError, match=message):
        newest(folder).restore(other, begun)
    shutil.rmtree(tmp_path / "checkpoints" / "step-000002", ignore_errors=True)
    (folder / "step-000002").unlink(missing_ok=True)
    newest(folder).restore(other, begun)  # as the hint says
    assert begun.applied == 1


def test_checkpoints_that_are_a_link_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "real", 1)
    (tmp_path / "checkpoints").symlink_to(tmp_path / "real", target_is_directory=True)
    with pytest.raises(StoreError, match="symbolic link"):
        Checkpoints(tmp_path / "checkpoints").newest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheduled": 1}, "schedule is at step 1, not 2"),
        ({"groups": []}, "other groups"),
        ({"groups": [{"lr": 0.1, "betas": [0.5, 0.999]}]}, "betas is"),
        ({"groups": [{}]}, "no learning rate"),
        ({"scalars": {"c:step": 1}}, "state of 'c'"),
    ],
)
def test_settings_of_another_optimizer_are_refused(change: dict[str, Any], message: str) -> None:
    parameters, learner = model()
    for _ in range(2):
        step(parameters, learner)
    values = learner.values().model_copy(update=change)
    with pytest.raises(StoreError, match=message):
        model()[1].restore(2, learner.tensors(), values)
