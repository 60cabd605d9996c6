"""``--data-file`` and its fellows: names, precedence, labels, and what is refused before libraries load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpft.runs.store import Store
from dpft.spec import DataSpec, RunSpec
from tests.unit.runs.builders import make_spec

from .conftest import Command, FakeTraining

ABOUT = ("--text-column", "body", "--label-column", "mood", "--labels", "sad,glad")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my data" / "customer reviews.csv"
    path.parent.mkdir()
    path.write_text("body,mood\na,glad\nb,sad\n")
    return path


def test_everything_reaches_the_spec(dpft: Command, training: FakeTraining, file: Path) -> None:
    assert dpft("train", "--data-file", file, *ABOUT, "--max-length", 20).code == 0
    assert training.specs[0].data == DataSpec(
        dataset="customer-reviews",
        data_file=str(file),
        text_columns=("body",),
        label_column="mood",
        labels=("sad", "glad"),
        max_length=20,
    )
    assert RunSpec.model_validate_json(training.specs[0].model_dump_json()) == training.specs[0]


def test_a_relative_path_is_kept_whole_and_a_name_may_be_given(
    dpft: Command, training: FakeTraining, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    other = file.with_name("dev.tsv")
    other.write_text("body\tmood\na\tglad\n")
    arguments = ("--data-file", file.name, "--validation-file", other.name, *ABOUT, "-d", "moods")
    assert dpft("train", *arguments, "--text-column", "second").code == 0
    data = training.specs[0].data
    assert (data.dataset, data.data_file, data.validation_file) == ("moods", str(file), str(other))
    assert data.text_columns == ("body", "second")


def test_variables_and_config_files_may_say_it(
    dpft: Command, training: FakeTraining, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f'data-file: "{file}"\ntext-column: body\nlabels: [sad, "so, so", 3]\n')
    monkeypatch.setenv("DPFT_LABEL_COLUMN", "mood")
    assert dpft("train", "--config", config).code == 0
    data = training.specs[0].data
    assert (data.text_columns, data.label_column) == (("body",), "mood")
    assert data.labels == ("sad", "so, so", "3")
    assert dpft("train", "--config", config, "--labels", "x, y").code == 0
    assert training.specs[1].data.labels == ("x", "y")


def test_the_command_line_outweighs_a_file_from_elsewhere(
    dpft: Command, training: FakeTraining, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'data-file = "{file}"\nlabels = ["sad", "glad"]\n')
    assert dpft("train", "--config", config, "-d", "sst2").code == 0
    assert dpft("train", "--config", config, "-d", "qqp", "--data-dir", tmp_path).code == 0
    monkeypatch.setenv("DPFT_DATASETS", "sst2")
    monkeypatch.setenv("DPFT_DATA_DIR", str(tmp_path))
    assert dpft("train", "--data-file", file, "--labels", "sad,glad").code == 0
    found = [(spec.data.dataset, spec.data.data_file, spec.data.data_dir) for spec in training.specs]
    assert found == [
        ("sst2", None, None),
        ("qqp", None, str(tmp_path)),
        ("customer-reviews", str(file), None),
    ]


def test_labels_are_asked_for_and_offered_but_never_taken(
    dpft: Command, training: FakeTraining, file: Path
) -> None:
    """Taking what the file has is the fault: the run would begin, with labels learnt from private rows."""
    failed = dpft("train", "--data-file", file, *ABOUT[:4])
    assert failed.code == 2
    assert "never learnt from private rows" in failed.err
    assert "--labels glad,sad" in failed.err
    assert training.specs == []
    assert dpft("train", "--data-file", file, *ABOUT[:4], "--no-dp").code == 2


FILES = {
    "a.csv": "text,label\na,yes\n",
    "wrong.csv": "text,label\na,yes\nb\n",
    "a.xlsx": "",
    "sst2.csv": "text,label\na,yes\n",
}
LABELS = ["--labels", "no,yes"]
WRONG: list[tuple[list[str], int, str]] = [
    (["--data-file", "none.csv", *LABELS], 3, "no file"),
    (["--data-file", "a.xlsx", *LABELS], 2, "'.xlsx'"),
    (["--data-file", ".", *LABELS], 2, "is a folder"),
    (["--data-file", "a.csv", "--validation-file", "none.csv", *LABELS], 3, "no file"),
    (["--data-file", "a.csv", "--validation-file", "a.csv", *LABELS], 2, "is the training file"),
    (["--data-file", "a.csv"], 2, "needs --labels"),
    (["--data-file", "a.csv", "--text-column", "txt"], 1, "no column 'txt'"),
    (["--data-file", "a.csv", "--labels", "yes"], 2, "2 or more different names"),
    (["--data-file", "a.csv", "--labels", "yes,yes"], 2, "2 or more different names"),
    (["--data-file", "a.csv", "--labels", 'no,"yes'], 2, "cannot be read"),
    (["--data-file", "a.csv", "--labels", "no,,yes"], 2, "'' cannot name a label"),
    (["--data-file", "a.csv", "-d", "sst2", *LABELS], 2, "'sst2' is a built-in dataset"),
    (["--data-file", "sst2.csv", *LABELS], 2, "-d my-sst2"),
    (["--data-file", "a.csv", "-d", "one,two", *LABELS], 2, "2 are named: one, two"),
    (["--data-file", "a.csv", "-d", "x/y", *LABELS], 2, "'x/y' cannot name a dataset"),
    (["--data-file", "a.csv", "--data-dir", ".", *LABELS], 2, "exclude each other"),
    (["--data-file", "a.csv", "--text-column", "label", *LABELS], 2, "given twice"),
    (["-d", "sst2", *LABELS], 2, "--labels has no effect without --data-file"),
    (["-d", "sst2", "--text-column", "x"], 2, "--text-column has no effect without --data-file"),
    (["-d", "mine"], 2, "unknown dataset 'mine'"),
    ([], 2, "or --data-file with a file"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG)
@pytest.mark.parametrize("command", ["train", "prepare"])
def test_wrong_input_is_one_line_with_a_remedy(
    dpft: Command,
    training: FakeTraining,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    outcome = dpft(command, *arguments, "--json")
    error = json.loads(outcome.out)["error"]
    assert outcome.code == error["exit_code"] == code, error
    assert message in error["message"] + error["hint"]
    assert error["hint"]
    assert "\n" not in error["message"]
    assert training.specs == []


def test_list_knows_datasets_of_ones_own(dpft: Command) -> None:
    own = DataSpec(dataset="moods", data_file="/x/a.csv", labels=("a", "b"))
    with Store().create(make_spec("mine").model_copy(update={"data": own})) as run:
        assert dpft("list", "-q", "--dataset", "moods").out.split() == [run.record.run_id]
    assert dpft("list", "--dataset", "mods").code == 2
