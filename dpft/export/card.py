"""The model card of an export: what it is, what it promises and what not, how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dpft.export.form import Form
from dpft.export.source import RestoredRun, Source
from dpft.runs.statement import NOTHING_CLAIMED

__all__ = ["card"]

_TASK = "text-classification"
_HUB_GLUE = "nyu-mll/glue"


def card(run: RestoredRun, form: Form, *, remark: str, tolerance: float) -> str:
    """The text of ``README.md``: the hub's metadata, then prose.

    Args:
        run: what is exported.
        form: how the folder is laid out.
        remark: what is to be known about loading it; may be empty.
        tolerance: to which the logits were compared.
    """
    body = "\n".join(_body(run, form, remark, tolerance))
    return str(ModelCard(f"---\n{_metadata(run.source, form).to_yaml()}\n---\n\n{body}"))


def _metadata(source: Source, form: Form) -> ModelCardData:
    """What the hub reads. ε is not there: it stands once, in the statement."""
    private = bool(source.manifest.get("private"))
    tags = ["dpft", source.mode.name, *form.tags, *(["differential-privacy"] if private else [])]
    results = _results(source)
    on_hub, base_name = _on_hub(source), source.base.public_id.rpartition("/")[2]
    return ModelCardData(
        base_model=source.base.public_id if source.base_is_public else None,
        base_model_relation=form.relation if source.base_is_public else None,
        datasets=[_HUB_GLUE] if on_hub else None,
        eval_results=results or None,
        model_name="-".join((base_name, source.spec.data.dataset, source.mode.name)),
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        library_name=form.library,
        license="unknown",
        pipeline_tag=_TASK,
        tags=tags,
    )


def _on_hub(source: Source) -> bool:
    return _HUB_GLUE in str(source.manifest.get("data", {}).get("source", ""))


def _results(source: Source) -> list[EvalResult]:
    """The validation scores, each with what it was computed on."""
    data, on_hub = source.manifest.get("data", {}), _on_hub(source)
    name = str(data.get("dataset", source.spec.data.dataset))
    told: dict[str, Any] = {
        "task_type": _TASK,
        "task_name": "text classification",
        "dataset_type": _HUB_GLUE if on_hub else name,
        "dataset_name": name if on_hub else f"{name}: {data.get('source', 'unknown source')}",
        "dataset_config": name if on_hub else None,
        "dataset_split": data.get("validation_split"),
        "dataset_revision": data.get("revision") if on_hub else None,
    }
    return [
        EvalResult(metric_type=metric, metric_name=metric, metric_value=float(value), **told)
        for metric, value in source.record.metrics.items()
        if metric in source.metrics and value is not None
    ]


def _body(run: RestoredRun, form: Form, remark: str, tolerance: float) -> Iterator[str]:
    source = run.source
    yield f"# {source.base.public_id}, fine-tuned on {source.spec.data.dataset} ({source.mode.name})"
    yield ""
    yield f"This folder holds {form.what} for text classification, made by dpft in"
    yield f"run `{source.record.run_id}`."
    yield f"Dataset: {source.task_description}. Trained: {source.mode.description}."
    yield f"Base model: {_base(source)}"
    yield from ("", "## Privacy", "", _privacy(source.manifest), "")
    yield "`privacy.json` is the run's whole manifest: what the statement rests on, and what to check it"
    yield "with. `dpft verify` on this folder recomputes it, and checks that all of it agrees."
    yield from ("", "### Not covered", "", *(f"- {caveat}" for caveat in _caveats(source)))
    yield from _scores(source)
    yield from ("", "## Loading", "", *([remark, ""] if remark else []), *_block(form.loading(run)), "")
    yield "Before this folder was published it was loaded so, and gave the run's logits to within about"
    yield f"{tolerance:.2g} on synthetic text. It needs {_listed(form.requires)} (`requirements.txt`)."
    yield f"Texts were cut to {source.spec.data.max_length} tokens in training; cut them likewise:"
    yield from ("", *_block(form.using(run)))
    shorter = form.shorter(run)
    if shorter:
        yield from (
            "",
            "Or let PEFT find the base model, whose labels it must be told:",
            "",
            *_block(shorter),
        )
    rows = [f"| {i} | {label} |" for i, label in enumerate(source.labels)]
    yield from ("", "## Labels", "", "| index | label |", "| --- | --- |", *rows, "")


def _block(lines: list[str]) -> list[str]:
    return ["```python", *lines, "```"]


def _listed(requirements: tuple[str, ...]) -> str:
    *others, last = (f"`{requirement}`" for requirement in requirements)
    return f"{', '.join(others)} and {last}"


def _base(source: Source) -> str:
    name = f"`{source.base.public_id}`"
    if not source.base_is_public:
        return (
            f"{name}, the name of a folder on the machine that trained, no id on any hub; its weights must "
            "be had from whoever made it, and are recognised by their hash in `privacy.json`."
        )
    commit = f" at commit `{source.base_revision}`" if source.base_revision else ""
    return f"{name}{commit}. Licence: not stated here; the base model's and the data's apply."


def _privacy(manifest: Mapping[str, Any]) -> str:
    statement = str(manifest["statement"])
    if statement != NOTHING_CLAIMED:
        return statement
    why_not = manifest.get("sampling", {}).get("why_not")
    reason = f" ({why_not})" if why_not else ""
    return (
        f"Of this model: {statement}{reason}. It was trained with clipping and noise, but not as a guarantee "
        "requires: treat it as a model trained without differential privacy."
    )


def _caveats(source: Source) -> Iterator[str]:
    """What the manifest itself says is not covered, in its own words."""
    manifest = source.manifest
    for release in manifest.get("releases", ()):
        if release["protection"] == "not protected":
            yield _sentence(release["item"], release.get("detail", ""))
    for access in manifest.get("data_accesses", ()):
        if access["classification"] == "unaccounted":
            yield _sentence(access["access"], access.get("detail", ""))
    base = manifest.get("base_model", {})
    overlap = base.get("overlap", "unknown")
    yield _sentence(f"base model (overlap with the private data: {overlap})", base.get("overlap_detail", ""))
    warning = manifest.get("tuning", {}).get("warning")
    if warning:
        yield _sentence("other runs on the same data", warning)
    yield _sentence("verification", manifest.get("evidence", {}).get("limits", ""))


def _sentence(what: str, why: str) -> str:
    return f"{what}: {why.rstrip('.')}." if why else f"{what}."


def _scores(source: Source) -> Iterator[str]:
    results = _results(source)
    if not results:
        return
    yield from ("", "## Scores", "", "| split | metric | value |", "| --- | --- | --- |")
    for result in results:
        yield f"| {result.dataset_split or '?'} | {result.metric_type} | {result.metric_value:.4f} |"
    constant = source.record.baselines.get("majority")
    if constant is not None:
        yield from ("", f"A constant answer has an accuracy of {constant:.4f}.")
