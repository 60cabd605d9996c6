"""What touches private data, and what leaves a run: the two lists of a manifest that name their own gaps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dpft.spec import Frozen

__all__ = [
    "ACCESSES",
    "RELEASES_OF_ALL",
    "RELEASES_OF_TRAINED",
    "Classification",
    "DataAccess",
    "Protection",
    "Release",
    "standard_accesses",
    "standard_releases",
    "validation_access",
]

Classification = Literal["public", "dp", "unaccounted"]
Protection = Literal["dp", "public", "not protected", "local-only"]

ACCESSES = ("tokenizer", "label statistics", "truncation", "filtering", "evaluation", "selection")
"""What no manifest may pass over."""

RELEASES_OF_ALL = ("training loss of each step", "number of examples")
RELEASES_OF_TRAINED = ("adapter", "validation metrics")

_Text = Annotated[str, Field(min_length=1)]


class DataAccess(Frozen):
    """One use of data: a name ("tokenizer", "truncation", "evaluation" …), its cost class, and why.

    Attributes:
        access: its name.
        classification: ``public`` reads nothing private; ``dp`` is part of what the guarantee covers;
            ``unaccounted`` is neither.
        detail: what is done.
    """

    access: _Text
    classification: Classification
    detail: str = ""


class Release(Frozen):
    """One thing that a run makes, and what protects it.

    Attributes:
        item: its name.
        protection: ``dp``: by the guarantee; ``public``: it tells nothing private; ``not protected``: it
            leaves, and nothing bounds what it tells; ``local-only``: it stays.
        detail: why.
    """

    item: _Text
    protection: Protection
    detail: str = ""


def validation_access(classification: Classification, *, carved: bool = False) -> DataAccess:
    """The scoring of the validation split, classed as the caller knows it to be.

    Args:
        classification: its cost class.
        carved: the validation rows were set aside from the training file.
    """
    if carved:
        return DataAccess(
            access="evaluation",
            classification=classification,
            detail="rows set aside from the training file are used for reporting only: nothing is chosen by "
            "their scores. Every run on the file scores the same rows again, and no ε covers that reuse",
        )
    return DataAccess(
        access="evaluation",
        classification=classification,
        detail="the validation split is used for reporting only: nothing is chosen by its scores",
    )


def standard_accesses(
    *,
    private: bool,
    max_length: int,
    labels_declared: bool = False,
    carved: bool = False,
    stopped: tuple[int, int] | None = None,
) -> tuple[DataAccess, ...]:
    """What every run does with data besides training steps.

    Args:
        private: whether training was differentially private.
        max_length: tokens per example, chosen without looking at any.
        labels_declared: the user named the labels, not a task of the tool's own.
        carved: the validation rows were set aside from the training file.
        stopped: steps taken, and planned, where the user stopped the run; None where it came to its end.
    """
    by_row: Classification = "dp" if private else "unaccounted"
    split = DataAccess(
        access="validation split",
        classification=by_row,
        detail="set aside from the training file, each row by a fixed hash of its own texts, whatever the "
        "others are; those rows are not trained on",
    )
    return (
        DataAccess(access="tokenizer", classification="public", detail="the base model's; none is learnt"),
        DataAccess(
            access="label names",
            classification="public",
            detail=f"{'declared by the user' if labels_declared else 'fixed by the task'}; "
            "an unknown label is refused",
        ),
        DataAccess(
            access="label statistics",
            classification="public",
            detail="none: no label is counted, no class weighted",
        ),
        DataAccess(
            access="truncation",
            classification=by_row,
            detail=f"each example on its own, to {max_length} tokens (chosen without looking)",
        ),
        DataAccess(
            access="filtering",
            classification="public",
            detail="none: an unusable row stops the run",
        ),
        DataAccess(
            access="check of the engine", classification="public", detail="on synthetic text, before training"
        ),
        *([split] if carved else []),
        validation_access("unaccounted", carved=carved),
        DataAccess(access="selection", classification="unaccounted", detail=_selection(private, stopped)),
    )


def _selection(private: bool, stopped: tuple[int, int] | None) -> str:
    unknown = "How its settings were chosen, and whether it was chosen among others, is not known here"
    if stopped is None:
        return f"none within the run: it stops nowhere early and keeps its last weights. {unknown}"
    taken, planned = stopped
    holds = ". The stated ε of all planned steps holds whatever scores decided it" if private else ""
    return (
        f"it was stopped by the user after {taken} of {planned} planned steps, and keeps its last weights: "
        f"if its scores decided that, it is selection, and is not accounted for{holds}. {unknown}"
    )


def standard_releases(
    *,
    claimed: bool,
    rows_public: bool,
    rows_declared: bool = False,
    checkpoints: bool = False,
    trained: bool = True,
) -> tuple[Release, ...]:
    """What every run releases or keeps.

    Args:
        claimed: whether the manifest has a guarantee.
        rows_public: whether n was declared public.
        rows_declared: whether a public estimate stands in for n, which is then told nowhere.
        checkpoints: whether intermediate weights are released too.
        trained: whether any step was taken; if not, there are no weights and no scores.

    Returns:
        Weights (covered where ``claimed``), validation scores, exact numbers of steps, time, and n.
    """
    weights: Protection = "dp" if claimed else "not protected"
    releases = []
    if trained:
        releases.append(Release(item="adapter", protection=weights))
        if checkpoints:
            releases.append(Release(item="checkpoints", protection=weights))
        detail = "not protected by this guarantee" if claimed else "computed exactly"
        releases.append(Release(item="validation metrics", protection="not protected", detail=detail))
    exact = "computed exactly on private examples; kept in local-only/"
    return (
        *releases,
        Release(item="training loss of each step", protection="local-only", detail=exact),
        Release(
            item="gradient norms, realised batch sizes and unusable rows of each step",
            protection="local-only",
            detail=exact,
        ),
        Release(
            item="running time",
            protection="local-only",
            detail="it varies with the examples drawn; it stands in run.json, which is not exported",
        ),
        _number_of_examples(rows_public, rows_declared),
    )


def _number_of_examples(public: bool, declared: bool) -> Release:
    item = "number of examples"
    if public:
        return Release(item=item, protection="public", detail="declared public")
    if declared:
        detail = "told nowhere: sample rate, number of steps and δ follow from a declared public estimate"
        return Release(item=item, protection="local-only", detail=detail)
    detail = "stated here; sample rate, number of steps and the default δ follow from it"
    return Release(item=item, protection="not protected", detail=detail)
