"""The README of an export: what it is, what it promises, how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpft.export.source import RestoredRun, Source
from dpft.runs.statement import NOTHING_CLAIMED

__all__ = ["base_call", "card"]


def card(run: RestoredRun, *, what: str, loading: Sequence[str], remark: str, tolerance: float) -> str:
    """The text of ``README.md``.

    Args:
        run: what is exported.
        what: the folder's content, in a noun phrase ("a LoRA adapter").
        loading: lines of Python that load it as ``model``; ``folder`` is the export.
        remark: what is to be known about loading it; may be empty.
        tolerance: to which the logits were compared.
    """
    source = run.source
    rows = [f"| {i} | {label} |" for i, label in enumerate(source.labels)]
    lines = [
        f"# {source.base.public_id}, fine-tuned on {source.spec.data.dataset} ({source.mode.name})",
        "",
        f"This folder holds {what} for text classification, made by dpft in run `{source.record.run_id}`.",
        f"Dataset: {source.task_description}. Trained: {source.mode.description}.",
        "",
        "## Privacy",
        "",
        _privacy(source.manifest),
        "",
        "`privacy.json` is the run's whole manifest: what the statement rests on, and what to check it with.",
        "",
        "## Loading",
        "",
        *([remark, ""] if remark else []),
        "```python",
        *loading,
        "```",
        "",
        "Before this folder was published it was loaded so, and gave the run's logits to within about "
        f"{tolerance:.2g} on synthetic text. Texts were cut to {source.spec.data.max_length} tokens in "
        "training; cut them likewise:",
        "",
        "```python",
        f"texts = tokenizer({_example(source)}, truncation=True, max_length={source.spec.data.max_length}, "
        'padding=True, return_tensors="pt")',
        "label = model.config.id2label[model(**texts).logits.argmax(-1)[0].item()]",
        "```",
        "",
        "## Labels",
        "",
        "| index | label |",
        "| --- | --- |",
        *rows,
        "",
    ]
    return "\n".join(lines)


def base_call(run: RestoredRun) -> list[str]:
    """Lines of Python that load the base model as ``model``."""
    options = [f"    {name}={value!r}," for name, value in run.base_options.items()]
    return [
        "model = AutoModelForSequenceClassification.from_pretrained(",
        f'    "{run.source.base.public_id}",{_is_a_folder(run.source)}',
        *options,
        ")",
    ]


def _example(source: Source) -> str:
    return '["a text"], ["its second text"]' if source.is_pair else '["a text"]'


def _is_a_folder(source: Source) -> str:
    by_package = source.spec.model.checkpoint.startswith("builtin:")  # called by its hub id
    return "  # a local folder of that name" if source.base.local and not by_package else ""


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
