"""Where an export goes, what it replaces, and what it leaves behind when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpft.errors import ExportError, StoreError, UsageError
from dpft.export import build
from tests.unit.export import workshop
from tests.unit.export.workshop import MadeRun


def snapshot(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in workshop.names_in(folder)}


def test_missing_parents_are_made_and_an_empty_folder_is_used(lora: MadeRun, tmp_path: Path) -> None:
    assert lora.export(tmp_path / "a" / "b" / "export").path == tmp_path / "a" / "b" / "export"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["export"]
    (tmp_path / "empty").mkdir()
    lora.export(tmp_path / "empty")
    assert (tmp_path / "empty" / "README.md").is_file()


def test_an_earlier_export_is_replaced_as_a_whole_if_asked(lora: MadeRun, tmp_path: Path) -> None:
    output = tmp_path / "export"
    lora.export(output)
    (output / "added.txt").write_text("later")
    before = snapshot(output)
    with pytest.raises(UsageError, match="holds an earlier export") as caught:
        lora.export(output, "merged")
    assert "--overwrite" in caught.value.hint
    assert snapshot(output) == before

    report = lora.export(output, "merged", overwrite=True)
    assert workshop.names_in(output) == [entry.name for entry in report.files]
    assert "added.txt" not in snapshot(output)
    assert "adapter_model.safetensors" not in snapshot(output)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_export_is_never_replaced(lora: MadeRun, tmp_path: Path, overwrite: bool) -> None:
    """Somebody's documents: replacing them as a whole cannot have been meant."""
    (tmp_path / "thesis.tex").write_text("three years of work")
    with pytest.raises(UsageError, match="is not empty, and no earlier export") as caught:
        lora.export(tmp_path, overwrite=overwrite)
    assert "--overwrite" in caught.value.hint
    with pytest.raises(UsageError, match="it is a file"):
        lora.export(tmp_path / "thesis.tex", overwrite=overwrite)
    assert snapshot(tmp_path) == {"thesis.tex": b"three years of work"}


@pytest.mark.parametrize(
    "place", [".", "..", "../..", "../../other", "adapter", "export", "local-only/export"]
)
def test_the_store_and_what_it_lies_in_are_refused(lora: MadeRun, place: str) -> None:
    with pytest.raises(UsageError, match="the store of runs is at"):
        lora.export(lora.record.run_dir / place, overwrite=True)
    with pytest.raises(UsageError, match="the store of runs is at"):
        lora.export(lora.record.run_dir.parents[2], overwrite=True)
    assert (lora.record.run_dir / "adapter" / "adapter_model.safetensors").is_file()


def test_a_name_that_writes_to_the_terminal_is_refused(lora: MadeRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="control characters") as caught:
        lora.export(tmp_path / "x\x1b[2J")
    assert caught.value.message.isprintable()


def test_a_link_into_the_store_is_refused(lora: MadeRun, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(lora.record.run_dir, target_is_directory=True)
    with pytest.raises(UsageError, match="the store of runs is at"):
        lora.export(tmp_path / "link" / "export")


def test_the_base_model_is_never_replaced(tmp_path: Path) -> None:
    """Not even if it is an export itself."""
    base = workshop.make_base(tmp_path / "models" / "tiny-base")
    (base / "privacy.json").write_text("{}")
    run = workshop.make_run(tmp_path / "home", workshop.make_spec(base, "last-layer"))
    for place in (base, base.parent):
        with pytest.raises(UsageError, match="the run's base model is there"):
            run.export(place, overwrite=True)


def test_a_failure_leaves_an_earlier_export_and_no_new_folder(
    lora: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora.export(tmp_path / "export")
    before = snapshot(tmp_path)

    def refuse(*_: object) -> float:
        raise ExportError("planted")

    monkeypatch.setattr(build, "compare", refuse)
    with pytest.raises(ExportError, match="planted"):
        lora.export(tmp_path / "export", overwrite=True)
    with pytest.raises(ExportError, match="planted"):
        lora.export(tmp_path / "new" / "folders" / "export")
    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_full_disk_is_one_clear_error(
    lora: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_write", full)
    with pytest.raises(StoreError, match="No space left on device"):
        lora.export(tmp_path / "export")
    assert not list(tmp_path.iterdir())
