"""``dpft config``: values, where they come from, the schema, and a file to begin with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.main import get_command

from dpft.cli.app import app
from dpft.cli.config import read_config, settable

from .conftest import Command, FakeTraining

COMMAND: Any = get_command(app).commands["config"]  # type: ignore[attr-defined]
TRAIN: Any = get_command(app).commands["train"]  # type: ignore[attr-defined]


def sources(dpft: Command, *arguments: object) -> dict[str, Any]:
    outcome = dpft("config", *arguments, "--json")
    assert outcome.code == 0, outcome.out
    return {setting["option"]: setting for setting in outcome.json["settings"]}


def test_each_value_has_its_source(dpft: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("datasets: qnli, qqp\nepochs: 2\nmax-length: 99\nseed: 4\n")
    monkeypatch.setenv("DPFT_MAX_LENGTH", "64")
    monkeypatch.setenv("DPFT_SEED", "5")
    found = sources(dpft, "--config", config, "--seed", 6)
    assert found["--datasets"] == {"option": "--datasets", "value": ["qnli", "qqp"], "source": "config"}
    assert (found["--epochs"]["value"], found["--epochs"]["source"]) == (2.0, "config")
    assert found["--max-length"] == {
        "option": "--max-length",
        "value": 64,
        "source": "environment",
        "origin": "DPFT_MAX_LENGTH",
    }
    assert (found["--seed"]["value"], found["--seed"]["source"]) == (6, "flag")
    assert found["--clipping"]["source"] == "default"
    assert found["--learning-rate"]["source"] == "mode default"
    assert found["--batch-size"]["value"] is None
    assert "sixteenth" in found["--batch-size"]["rule"]


def test_specs_are_those_of_train(dpft: Command, training: FakeTraining) -> None:
    arguments = ("qnli", "qqp", "-f", "ia3", "--name", "mine", "--tag", "x", "--target-epsilon", 3)
    outcome = dpft("config", *arguments, "--json")
    assert dpft("train", *arguments).code == 0
    assert outcome.json["specs"] == [spec.model_dump(mode="json") for spec in training.specs]
    found = {setting["option"]: setting["value"] for setting in outcome.json["settings"]}
    assert (found["--name"], found["--tag"]) == ("mine", ["x"])


def test_what_is_set_aside_is_told(dpft: Command, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("noise-multiplier = 2.0\n")
    found = sources(dpft, "sst2", "--config", config, "--target-epsilon", 3)
    assert found["--noise-multiplier"]["set_aside"] == 2.0
    assert found["--noise-multiplier"]["value"] is None
    assert "(2.0 is set aside)" in dpft("config", "sst2", "--config", config, "--target-epsilon", 3).out


def test_only_what_has_an_effect_is_shown(dpft: Command, tmp_path: Path) -> None:
    plain = sources(dpft, "sst2", "--no-dp", "-f", "full")
    assert not {"--target-epsilon", "--lora-r", "--num-prepend-tokens", "--labels"} & set(plain)
    assert plain["--enable-dp"]["value"] is False
    file = tmp_path / "my reviews.csv"
    file.write_text("text,label\n")
    own = sources(dpft, "--data-file", file, "--labels", 'no,"yes, but"', "-f", "prefix+lora")
    assert own["--datasets"] == {
        "option": "--datasets",
        "value": ["my-reviews"],
        "source": "default",
        "rule": "called after the data file",
    }
    assert own["--labels"]["value"] == ["no", "yes, but"]
    assert own["--labels"]["source"] == "flag"
    assert own["--text-column"]["source"] == "default"
    assert {"--lora-r", "--num-prepend-tokens"} <= set(own)
    assert "--data-dir" not in own


def test_a_table_for_people(dpft: Command) -> None:
    outcome = dpft("config", "sst2", "-f", "ia3")
    assert re.search(r"--finetune-mode +ia3 +flag", outcome.out)
    assert "\x1b" not in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--schema", "--init"], "exclude each other"),
        ([], "no dataset"),
        (["sst2", "--epochs", "0"], "--epochs"),
    ],
)
def test_wrong_input(dpft: Command, arguments: list[str], message: str) -> None:
    outcome = dpft("config", *arguments)
    assert outcome.code == 2
    assert message in outcome.err


def test_it_takes_every_setting_of_train() -> None:
    assert {found.name for found in settable(TRAIN)} == {found.name for found in settable(COMMAND)}


@pytest.fixture
def schema(dpft: Command) -> Any:
    found = dpft("config", "--schema").json
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def test_the_schema_has_what_a_file_may_have(schema: Any) -> None:
    keys = {
        str(found.name).replace("_", "-") for found in settable(TRAIN) if found.name != "dataset_arguments"
    }
    assert keys <= set(schema["properties"])
    good = {"datasets": ["a"], "batch_size": 3, "target-epsilon": 3, "enable-dp": False, "labels": "a,b"}
    jsonschema.validate(good, schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batchsize": 1},
        {"epochs": 0},
        {"finetune-mode": "lorra"},
        {"batch-size": "many"},
        {"lora-dropout": 1},
    ],
)
def test_the_schema_refuses_what_train_refuses(
    dpft: Command, schema: Any, wrong: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)
    file = tmp_path / "c.toml"
    file.write_text("".join(f"{key} = {value!r}\n" for key, value in wrong.items()))
    assert dpft("config", "sst2", "--config", file).code == 2


def test_the_example_is_valid_when_its_comments_are_taken_away(
    dpft: Command, schema: Any, tmp_path: Path
) -> None:
    """Each setting on its own: a file with its line alone is one that train reads, and the schema allows."""
    text = dpft("config", "--init").out
    lines = re.findall(r"(?m)^# ([\w-]+ = .+)$", text)
    keys = {str(found.name): str(found.name) for found in settable(TRAIN)} | {"tag": "tags"}
    assert len(lines) == len(keys) - 1  # a tag has two spellings
    for line in lines:
        (tmp_path / "one.toml").write_text(line)
        assert len(read_config(tmp_path / "one.toml", keys)) == 1
        document = tomllib.loads(line)
        if '""' not in line:  # a place to write something
            jsonschema.validate(document, schema)
    (tmp_path / "all.toml").write_text(text)
    assert dpft("config", "sst2", "--config", tmp_path / "all.toml").code == 0
