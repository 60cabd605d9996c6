"""Variables that set nothing are told of."""

from __future__ import annotations

import typer

from dpft.cli.app import app
from dpft.cli.request import VARIABLES
from dpft.cli.variables import PLACES, misspelt


def test_every_variable_that_sets_an_option_is_known():
    group = typer.main.get_group(app)
    context = typer.Context(group)
    commands = [group.get_command(context, name) for name in group.list_commands(context)]
    variables = {p.envvar for command in commands if command for p in command.params if p.envvar}
    assert "DPFT_BUDGET_CAP" in variables
    assert misspelt(dict.fromkeys([*variables, *PLACES], "1"), VARIABLES) == []


def test_a_misspelt_cap_is_told_of(dpft, monkeypatch):
    monkeypatch.setenv("DPFT_BUDGET_CAPP", "3")
    result = dpft("config", "-d", "demo", "-m", "builtin:minilm")
    assert result.code == 0
    assert "DPFT_BUDGET_CAPP: it is ignored; did you mean DPFT_BUDGET_CAP?" in result.err
