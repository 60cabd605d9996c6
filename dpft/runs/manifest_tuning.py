"""A manifest's group on what else the same data, and the same run, have released."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dpft.runs.quantities import Epsilon
from dpft.runs.statement import SEVERAL_RUNS
from dpft.spec import Frozen

__all__ = ["Tuning"]

_Count = Annotated[int, Field(ge=0, le=2**53)]
_Positive = Annotated[int, Field(ge=1, le=2**53)]
_Text = Annotated[str, Field(min_length=1)]


class Tuning(Frozen):
    """Other runs on the same data, and earlier processes of this one.

    Attributes:
        ledger: whether spending is counted over runs, and how.
        runs_on_this_data: counted, this one included.
        unprotected_runs: those of them that no ε covers.
        composed_epsilon: ε of the runs that an ε covers, all together, at this run's δ.
        resumptions: how often a later process went on with this run.
        lost_steps: steps that earlier processes of this run may have released, and that are no part of this
            result.
        supersedes_steps: steps in an earlier adapter of this run of which some are lost; absent where every
            earlier one is continued by this.
        epsilon_with_lost_steps: ε of this run's steps and the lost ones together, at its δ.
        selection_metric: by what this run was chosen, if it was.
        selection_split: on which split.
        warning: what composition means.
    """

    ledger: _Text = "not consulted"
    runs_on_this_data: _Positive | None = None
    unprotected_runs: _Count | None = None
    composed_epsilon: Epsilon | None = None
    resumptions: _Count | None = None
    lost_steps: _Count | None = None
    supersedes_steps: _Positive | None = None
    epsilon_with_lost_steps: Epsilon | None = None
    selection_metric: _Text | None = None
    selection_split: _Text | None = None
    warning: _Text = SEVERAL_RUNS
