"""Options: their defaults are stated as their owners have them, and none is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from typer.main import get_command

from dpft.cli import options
from dpft.cli.app import app
from dpft.cli.complete import names, run_references
from dpft.cli.request import _PARTS, FIELDS
from dpft.runs.store import Store
from dpft.spec import DataSpec, ModelSpec
from dpft.tables import MODES
from tests.unit.runs.builders import make_spec

OWNERS: dict[str, Any] = {**_PARTS, "data": DataSpec, "model": ModelSpec}
TRAIN: Any = get_command(app).commands["train"]  # type: ignore[attr-defined]
CONTRACT = (
    "--model-checkpoint -m --max-length --finetune-mode -f --learning-rate --epochs --batch-size --enable-dp "
    "--no-dp --target-epsilon --target-delta --noise-multiplier --max-grad-norm --datasets -d --lora-r "
    "--lora-alpha --lora-dropout --num-prepend-tokens --clipping --engine --data-dir --micro-batch-tokens "
    "--precision --seed --name --tag --note --config --plan --json"
)


def option(parameter: str) -> Any:
    return next(found for found in TRAIN.params if found.name == parameter)


@pytest.mark.parametrize("name", sorted(set(options.STATED) - {"finetune_mode", "batch_size"}))
def test_stated_defaults_are_their_owners(name: str) -> None:
    part, field = FIELDS[name]
    assert options.STATED[name] == str(OWNERS[part].model_fields[field].default)
    assert f"default: {options.STATED[name]}]" in option(name).help


def test_the_stated_mode_is_a_mode() -> None:
    assert options.STATED["finetune_mode"] in MODES


def test_the_contracts_options_are_all_there() -> None:
    spellings = {text for found in TRAIN.params for text in (*found.opts, *found.secondary_opts)}
    assert set(CONTRACT.split()) <= spellings


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_help_a_panel_and_a_variable(name: str) -> None:
    found = option(name)
    assert found.help
    assert found.rich_help_panel
    assert found.envvar == f"DPFT_{name.upper()}"
    assert found.default is None


def test_names_are_completed_also_after_a_comma() -> None:
    complete = names(MODES)
    assert complete("soft") == ["soft-prompt", "soft-prompt+lora"]
    assert complete("full,ia") == ["full,ia3"]
    assert complete("nothing") == []


def test_runs_are_completed_by_name_and_id() -> None:
    assert run_references("") == []
    with Store().create(make_spec("my-run")) as run:
        run_id = run.record.run_id[:8]
        assert [reference for reference, _ in run_references("")] == ["@latest", "my-run", run_id]
        assert [reference for reference, _ in run_references("my")] == ["my-run"]
        assert "sst2, lora, running" in dict(run_references(run_id))[run_id]
