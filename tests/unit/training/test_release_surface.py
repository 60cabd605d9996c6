"""Row 14: whatever leaves a run comes through the noisy release, or is public.

Two runs on neighbouring data, one example apart, with the same secret randomness; and the release is replaced
by one that does not look at the sums it is given. So the weights of both are equal, and with them everything
that may be computed from them, scores too. Losses, norms, batch sizes and the number of examples still
differ: any byte that differs in what may be shared told of them past the noise.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpft.cli.app import main
from dpft.cli.progress import TrainingView
from dpft.privacy.plan import Draw, PrivatePlan
from dpft.runs.active import ActiveRun

pytestmark = pytest.mark.slow

ROWS = 40
HARMLESS = {"a fine film": 1, "a dull film": 0, "truly good and warm": 1}
OUTLIER = "dim , tedious and flat " * 20  # longer than any, cut, and mislabelled
LOCAL = {"local-only", ".lock"}
TIMES = re.compile(r"\d+(\.\d+)? ?(steps/s|s/step|s|min|h)\b( \d+ s)?( left)?")
PRIVATE_N = ("--public-n", "50", "--noise-multiplier", "2")

KNOWN = {
    *("config.yaml", "files.json", "metrics.jsonl", "privacy.json", "run.json"),
    *(
        f"{place}/{name}"
        for place in ("adapter", "export")
        for name in (
            *("README.md", "adapter_config.json", "adapter_model.safetensors", "files.json"),
            "privacy.json",
        )
    ),
    *("export/requirements.txt", "export/tokenizer.json", "export/tokenizer_config.json"),
    *("train --json", "terminal", "list", "eval --json"),
}
"""Whatever a run leaves; what is new belongs here, and is compared, or into local-only/."""

Plant = Callable[[pytest.MonkeyPatch], None]


def release_what_was_not_computed(plan: PrivatePlan, draw: Draw, sums: Mapping[str, Tensor]) -> Any:
    """Count the step, and give a gradient that depends on its number alone."""
    plan._close(draw)
    generator = torch.Generator().manual_seed(plan.steps_taken)
    return {name: torch.randn(value.shape, generator=generator) for name, value in sums.items()}


def in_order(data: bytes, path: Path) -> bytes:
    """A file's bytes; safetensors writes the keys of its header in any order, which changes its digest."""
    if path.suffix == ".safetensors":
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        return json.dumps(header, sort_keys=True).encode() + data[8 + length :]
    if path.name == "files.json":
        document = json.loads(data)
        for entry in document["files"]:
            if entry["name"].endswith((".safetensors", "files.json")):  # the latter has the former's digest
                del entry["sha256"]
        return json.dumps(document).encode()
    return data


class Stage:
    """Runs of one spec on neighbouring data, in places of the same names."""

    def __init__(self, folder: Path, model: Path, patch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.folder, self.model, self.patch, self.capsys = folder, model, patch, capsys
        patch.setenv("DPFT_HOME", str(folder / "home"))
        patch.setenv("DPFT_CACHE", str(folder / "cache"))
        patch.setenv("COLUMNS", "200")
        patch.setattr(PrivatePlan, "release", release_what_was_not_computed)
        patch.setattr("dpft.privacy.noise._fresh_key", lambda: bytes(32))
        patch.setattr("dpft.runs.store.new_run_id", lambda: "0123456789abcdef")

    def traces(
        self, *, with_outlier: bool, more: tuple[str, ...] = PRIVATE_N, after: bool = True
    ) -> dict[str, bytes]:
        """Train, export, score; everything that may be shared, by name."""
        for place in ("home", "cache", "data", "export"):
            shutil.rmtree(self.folder / place, ignore_errors=True)
        self._write_data(with_outlier=with_outlier)
        found = {}
        shown = self._call("train", "sst2", *self._given(), *more, "--name", "trial", "--json")
        found["train --json"] = self._timeless(shown.out)
        found["terminal"] = self._timeless(shown.err)
        run_dir = self.folder / "home" / "runs" / "0123456789abcdef"
        found |= self._files(run_dir)
        self.local = (run_dir / "local-only" / "training.jsonl").read_text()
        if after:
            found["list"] = self._timeless(self._call("list").out)
            found["eval --json"] = self._call("eval", "trial", "--json").out.encode()
            self._call("export", "trial", "--output", str(self.folder / "export"))
            found |= {f"export/{name}": data for name, data in self._files(self.folder / "export").items()}
        return found

    def _given(self) -> tuple[str, ...]:
        data = str(self.folder / "data")
        return (
            *("-m", str(self.model), "--data-dir", data, "--max-length", "24", "-f", "ia3"),
            *("--batch-size", "10", "--epochs", "0.6", "--micro-batch-tokens", "200"),
        )

    def _write_data(self, *, with_outlier: bool) -> None:
        texts = [text for i in range(ROWS) for text in [list(HARMLESS)[i % len(HARMLESS)]]]
        rows = [f"{text} {'and fun ' * (i % 4)}\t{HARMLESS[text]}" for i, text in enumerate(texts)]
        private = [f"{OUTLIER}\t1", *rows] if with_outlier else rows
        (self.folder / "data" / "SST-2").mkdir(parents=True)
        for name, lines in (("train", private), ("dev", rows[:20])):
            path = self.folder / "data" / "SST-2" / f"{name}.tsv"
            path.write_text("\n".join(["sentence\tlabel", *lines]) + "\n")

    def _call(self, *arguments: str) -> Any:
        code = main(arguments)
        captured = self.capsys.readouterr()
        assert code == 0, captured.err
        return captured

    def _timeless(self, text: str) -> bytes:
        return TIMES.sub("TIME", re.sub(r'"(seconds|created|finished)": [^,\n]*', "", text)).encode()

    def _files(self, folder: Path) -> dict[str, bytes]:
        """Everything but what is local; clocks stand still."""
        found = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name.split("/")[0] not in LOCAL:
                data = path.read_bytes()
                found[name] = self._timeless(data.decode()) if name == "run.json" else in_order(data, path)
        return found


@pytest.fixture
def stage(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Stage:
    class Clock:
        @staticmethod
        def now(_: object) -> Any:
            from datetime import UTC, datetime

            return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    monkeypatch.setattr("dpft.training.declare.datetime", Clock)
    return Stage(tmp_path, tiny_model, monkeypatch, capsys)


def differing(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def test_neighbours_leave_the_same_bytes_but_for_what_is_local(stage: Stage) -> None:
    one = stage.traces(with_outlier=True)
    local = stage.local
    other = stage.traces(with_outlier=False)
    assert differing(one, other) == set()
    assert local != stage.local  # the runs did see different things
    assert one.keys() == KNOWN


def test_where_the_number_is_public_all_else_is_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One example is replaced, so that n, q, T and δ stay; the fingerprint is keyed, and set aside."""
    monkeypatch.setattr("dpft.training.declare.keyed_fingerprint", lambda _, home: "ab" * 32)
    monkeypatch.setattr(stage, "_write_data", replacing(stage))
    more = ("--noise-multiplier", "2")
    one = stage.traces(with_outlier=True, more=more, after=False)
    other = stage.traces(with_outlier=False, more=more, after=False)
    assert differing(one, other) == set()


def replacing(stage: Stage) -> Callable[..., None]:
    write = stage._write_data

    def both_of_a_size(*, with_outlier: bool) -> None:
        write(with_outlier=True)
        path = stage.folder / "data" / "SST-2" / "train.tsv"
        if not with_outlier:
            path.write_text(path.read_text().replace(OUTLIER, "a fine film"))

    return both_of_a_size


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_what_a_run_leaves(
    umask: int, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs, checkpoints, exports, prepared text, registry and key; whatever the shell's umask says."""
    monkeypatch.setattr("dpft.training.checkpoint.Checkpoints.remove", lambda _: None)  # to look at them
    before = os.umask(umask)
    try:
        stage.traces(with_outlier=True, more=(*PRIVATE_N, "--checkpoint-every", "1"))
    finally:
        os.umask(before)
    seen, open_to_others = set(), {}
    for place in ("home", "cache", "export"):
        for path in [stage.folder / place, *(stage.folder / place).rglob("*")]:
            name, mode = path.relative_to(stage.folder).as_posix(), stat.S_IMODE(path.stat().st_mode)
            seen.add(name)
            if mode != (0o700 if path.is_dir() else 0o600):
                open_to_others[name] = oct(mode)
    assert open_to_others == {}
    parts = {name.rpartition("/")[2] for name in seen}
    assert {"registry.json", "secret.key", "training.jsonl", "train.arrow", "adapter_config.json"} <= parts
    assert any("/checkpoints/" in name for name in seen)


# -- and each leak is seen, in the place where it was planted


class Details:
    """What a run writes down for this machine alone; a leak has it from here."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: dict[str, Any] = {}
        keep = ActiveRun.append_local_only

        def remember(active: ActiveRun, values: Mapping[str, Any]) -> None:
            self.seen.update(values)
            keep(active, values)

        patch.setattr(ActiveRun, "append_local_only", remember)


def in_metrics(patch: pytest.MonkeyPatch) -> None:
    """The exact loss, under a name that the guard of metrics.jsonl lets pass."""
    details, honest = Details(patch), ActiveRun.append_metrics

    def leak(active: ActiveRun, values: Mapping[str, Any]) -> None:
        honest(active, {**values, "validation_x": details.seen["loss"]})

    patch.setattr(ActiveRun, "append_metrics", leak)


def of_manifest(change: Callable[[dict[str, Any], Details, Any], None]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        from dpft.training import run
        from dpft.training.declare import declare

        details = Details(patch)

        def leak(**parts: Any) -> Any:
            manifest = declare(**parts)
            document = manifest.to_dict()
            change(document, details, parts["plan"])
            return type(manifest).model_validate(document)

        patch.setattr(run, "declare", leak)

    return plant


def the_batch(document: dict[str, Any], details: Details, plan: Any) -> None:
    document["mechanism"]["micro_batching"] += f"; the last had {details.seen['batch_size']} examples"


def the_number(document: dict[str, Any], details: Details, plan: Any) -> None:
    document["software"]["versions"]["rows"] = str(plan.examples)


def the_gradients(document: dict[str, Any], details: Details, plan: Any) -> None:
    document["evidence"]["audit"] = f"median norm {details.seen['median_norm']:.2f}"


def in_card(patch: pytest.MonkeyPatch) -> None:
    """Which part of the gradients was clipped, as far as the median tells."""
    from dpft.training import run
    from dpft.training.card import card

    details = Details(patch)
    patch.setattr(
        run, "card", lambda *parts: card(*parts) + f"clipped at {details.seen['median_norm']:.3g}\n"
    )


def in_weights(patch: pytest.MonkeyPatch) -> None:
    """One number of one tensor."""
    honest = release_what_was_not_computed

    def leak(plan: PrivatePlan, draw: Draw, sums: Mapping[str, Tensor]) -> Any:
        released = honest(plan, draw, sums)
        next(iter(released.values())).view(-1)[0] = float(len(draw.indices))
        return released

    patch.setattr(PrivatePlan, "release", leak)


def in_header(patch: pytest.MonkeyPatch) -> None:
    from dpft.training import run
    from dpft.tuning.files import stamp

    details = Details(patch)

    def leak(folder: Path, statement: str) -> None:
        stamp(folder, json.dumps({**json.loads(statement), "loss": details.seen["loss"]}))

    patch.setattr(run, "stamp", leak)


def in_json(patch: pytest.MonkeyPatch) -> None:
    details, honest = Details(patch), ActiveRun.finish

    def leak(active: ActiveRun, *status: Any, **fields: Any) -> Any:
        fields["metrics"] = {**fields["metrics"], "training_loss": details.seen["loss"]}
        return honest(active, *status, **fields)

    patch.setattr(ActiveRun, "finish", leak)


def on_the_terminal(patch: pytest.MonkeyPatch) -> None:
    details, honest = Details(patch), TrainingView.progressed

    def leak(view: TrainingView, reached: Any) -> None:
        honest(view, reached)
        view.warned(f"loss {details.seen['loss']:.4f}")

    patch.setattr(TrainingView, "progressed", leak)


def another_file(patch: pytest.MonkeyPatch) -> None:
    """A file that exists only where something was seen."""
    honest = ActiveRun.append_local_only

    def leak(active: ActiveRun, values: Mapping[str, Any]) -> None:
        honest(active, values)
        if values["batch_size"] % 2:
            (active.directory / f"odd-{values['step']}").touch()

    patch.setattr(ActiveRun, "append_local_only", leak)


LEAKS: dict[str, tuple[Plant, str]] = {
    "loss in metrics.jsonl": (in_metrics, "metrics.jsonl"),
    "realised batch size in the manifest": (of_manifest(the_batch), "privacy.json"),
    "n in the manifest": (of_manifest(the_number), "privacy.json"),
    "norms in the manifest": (of_manifest(the_gradients), "adapter/privacy.json"),
    "clipping in the card": (in_card, "adapter/README.md"),
    "batch size in the weights": (in_weights, "adapter/adapter_model.safetensors"),
    "loss in the header": (in_header, "adapter/adapter_model.safetensors"),
    "loss in the JSON": (in_json, "train --json"),
    "loss on the terminal": (on_the_terminal, "terminal"),
    "a file": (another_file, "odd-"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_seen(leak: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, place = LEAKS[leak]
    plant(monkeypatch)
    one = stage.traces(with_outlier=True, after=False)
    other = stage.traces(with_outlier=False, after=False)
    assert [name for name in differing(one, other) if name.startswith(place)], sorted(differing(one, other))
