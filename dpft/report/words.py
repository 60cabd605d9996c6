"""A run and its manifest in words; and what no report may say, a way through this machine's folders."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dpft.report.charts import share
from dpft.report.gather import ReportedRun, Score
from dpft.runs.manifest import Manifest
from dpft.runs.statement import round_up_delta, round_up_epsilon

__all__ = [
    "NONE",
    "Fact",
    "accuracy",
    "course",
    "facts",
    "glued",
    "privacy",
    "short_epsilon",
    "sparkline",
    "without_paths",
]

NONE = "—"
HIDDEN = "[local path]"

_PATH = re.compile(
    r"file:/+[^\s'\"<>|]*"  # a URL of a file
    r"|(?<![\w~.:/\\<-])(?:~|[A-Za-z]:)[/\\][^\s'\"<>|,;:]*"  # at home, or on a drive
    r"|(?<![\w\\])\\\\[^\s'\"<>|,;:]+"  # on another machine
    r"|(?<![\w~.:/\\<-])/[^\s/'\"<>|,;:][^\s'\"<>|,;:]*"  # from the root
)
_GLUED = re.compile(r"(ε|δ) ≤ (?=\d)")
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Fact:
    """One thing a manifest says.

    Attributes:
        label: what about.
        text: what.
    """

    label: str
    text: str


def without_paths(text: str) -> str:
    """Text with every path of this machine's folders taken out.

    >>> without_paths("see /home/me/data.csv and https://example.org/a/b, or nyu-mll/glue")
    'see [local path] and https://example.org/a/b, or nyu-mll/glue'
    """
    return _PATH.sub(HIDDEN, text)


def glued(text: str) -> str:
    """Text whose bounds stay on one line.

    >>> len("with ε ≤ 3".split(" ")), len(glued("with ε ≤ 3").split(" "))
    (4, 2)
    """
    return _GLUED.sub("\\1\u00a0≤\u00a0", text)


def short_epsilon(run: ReportedRun) -> str:
    """ε for a table: rounded up, or in a word why there is none."""
    if run.epsilon is not None:
        return round_up_epsilon(run.epsilon)
    if not run.record.private:
        return "none"
    if run.manifest is not None and run.manifest.steps == 0:
        return "nothing released"
    return "no claim"


def privacy(run: ReportedRun) -> str:
    """The guarantee in one line."""
    if run.problem is not None and run.record.private:
        return f"no valid (ε, δ) claimed: {run.problem}"
    if not run.record.private:
        return "none: trained without differential privacy"
    if run.epsilon is not None and run.delta is not None:
        return f"ε ≤ {round_up_epsilon(run.epsilon)} at δ ≤ {round_up_delta(run.delta)}"
    if run.manifest is not None and run.manifest.steps == 0:
        return "nothing was released: no step was taken"
    return "no valid (ε, δ) claimed"


def accuracy(run: ReportedRun) -> str:
    """The score with its interval and baseline, in one line."""
    if run.accuracy is None:
        return "not scored"
    words = share(run.accuracy)
    bounds = run.interval
    if bounds is not None:
        words += f" (95% interval {share(bounds[0])} to {share(bounds[1])})"
    if run.majority is not None:
        words += f"; always the most frequent label: {share(run.majority)}"
        if not run.accuracy > run.majority:
            words += ", which is no worse"
        elif bounds is not None and not bounds[0] > run.majority:
            words += ", which is not clearly worse"
    return words


def course(scores: Sequence[Score]) -> str:
    """A learning curve in a sentence, for those who do not see it."""
    known = [score for score in scores if score.accuracy is not None]
    if not known:
        return "never scored"
    first, last = known[0], known[-1]
    if first is last:
        return f"{share(last.accuracy or 0)} after step {last.step:,}"
    best = max(known, key=lambda score: score.accuracy or 0)
    return (
        f"{share(first.accuracy or 0)} after step {first.step:,}, {share(last.accuracy or 0)} after step "
        f"{last.step:,}, at best {share(best.accuracy or 0)} after step {best.step:,}"
    )


def sparkline(scores: Sequence[Score]) -> str:
    """A learning curve in block characters; empty where there are not two points of it.

    >>> sparkline([Score(1, {"accuracy": 0.5}, None), Score(2, {"accuracy": 0.6}, None)])
    '▁█'
    """
    values = [score.accuracy for score in scores if score.accuracy is not None]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    top = len(_BLOCKS) - 1
    return "".join(
        _BLOCKS[round((value - low) / (high - low) * top) if high > low else 0] for value in values
    )


def facts(manifest: Manifest) -> Iterator[Fact]:
    """What a manifest says, group by group, in words; the statement itself and the lists of gaps aside."""
    yield from _protection(manifest)
    yield from _guarantee(manifest)
    yield from _mechanism(manifest)
    yield from _others(manifest)


def _protection(manifest: Manifest) -> Iterator[Fact]:
    definition = manifest.definition
    if definition is not None:
        neighbours = (
            "with and without any one example"
            if definition.adjacency == "add-or-remove-one"
            else "with any one example's content changed"
        )
        yield Fact(
            "What is protected",
            f"One {definition.unit}: {definition.example}. Labels are protected too. Training is compared "
            f"{neighbours} ({definition.adjacency} adjacency).",
        )
    what = (
        "the final adapter"
        if manifest.setting.release == "final-adapter"
        else "the adapter and its checkpoints"
    )
    yield Fact("From whom", f"Anyone who sees {what}; {manifest.setting.trusted}.")


def _guarantee(manifest: Manifest) -> Iterator[Fact]:
    claim = manifest.guarantee
    if claim is None:
        if manifest.sampling is not None and manifest.sampling.why_not:
            yield Fact("Why nothing is claimed", _capital(_stop(manifest.sampling.why_not)))
        return
    target = "" if claim.target_epsilon is None else f", the target being {claim.target_epsilon:g}"
    yield Fact(
        "How well",
        f"ε ≤ {round_up_epsilon(claim.epsilon)}{target}; δ ≤ {round_up_delta(claim.delta)}, which is "
        f"{claim.delta_rule}. Accountant: {claim.accountant}.",
    )
    others = []
    if claim.second_epsilon is not None:
        others.append(f"by {claim.second_accountant}, ε ≤ {round_up_epsilon(claim.second_epsilon)}")
    if claim.replace_one_epsilon is not None:
        others.append(
            "if neighbours differ in one example's content instead, "
            f"ε ≤ {round_up_epsilon(claim.replace_one_epsilon)}"
        )
    if others:
        yield Fact("Also", f"At the same δ: {'; '.join(others)}.")


def _mechanism(manifest: Manifest) -> Iterator[Fact]:
    mechanism, sampling = manifest.mechanism, manifest.sampling
    text = f"{mechanism.kind}; engine {mechanism.engine}"
    if not mechanism.missing_noise_fields():
        text += (
            f". Each example's gradient is clipped ({mechanism.clipping}) to norm "
            f"{mechanism.max_grad_norm:g}; the sum gets noise with a standard deviation of "
            f"{mechanism.noise_multiplier:.4f} times that norm, and is divided by the "
            f"{mechanism.denominator}, {mechanism.expected_batch_size:,}. "
            f"Empty batches: {mechanism.empty_batch_rule}"
        )
    yield Fact("Mechanism", f"{text}.")
    if sampling is not None:
        held = "what ran is what is accounted for" if sampling.assumptions_hold else "they are not the same"
        yield Fact("Batches", f"Accounted for: {sampling.assumed}. What ran: {sampling.actual}. So {held}.")
    events = [
        f"{event.steps:,} steps at sample rate {event.sample_rate:.6g} and noise multiplier "
        f"{event.noise_multiplier:.6g}"
        for event in manifest.events or ()
    ]
    if events:
        planned = mechanism.steps_planned or manifest.steps
        yield Fact("Steps taken", f"{'; '.join(events)}; of {planned:,} steps planned.")
    shapes = [parameter.shape for parameter in mechanism.trainable_parameters]
    trained = sum(math.prod(shape) for shape in shapes)
    tensors = "1 tensor" if len(shapes) == 1 else f"{len(shapes):,} tensors"
    yield Fact("Trained", f"{trained:,} numbers in {tensors} ({mechanism.finetune_mode}).")


def _others(manifest: Manifest) -> Iterator[Fact]:
    tuning, data, base = manifest.tuning, manifest.data, manifest.base_model
    counted = f"ledger: {tuning.ledger}"
    if tuning.runs_on_this_data is not None:
        counted += f"; {tuning.runs_on_this_data:,} on this data so far, this one included"
    if tuning.unprotected_runs:
        counted += f", {tuning.unprotected_runs:,} of them without protection"
    if tuning.composed_epsilon is not None:
        counted += f"; together ε ≤ {round_up_epsilon(tuning.composed_epsilon)}"
    yield Fact("Other runs", f"{_capital(counted)}. {_stop(tuning.warning)}")
    rows = ""
    if data.rows is not None:
        rows = f", {data.rows:,} examples"
    elif data.rows_declared is not None:
        rows = f"; the number of examples is private, {data.rows_declared:,} being declared in its place"
    revision = f", revision {data.revision}" if data.revision else ""
    yield Fact("Data", f"{data.dataset} ({data.split}) from {data.source}{revision}{rows}.")
    revision = f", revision {base.revision}" if base.revision else ""
    known = f" Its makers trained it on: {_stop(base.training_data)}" if base.training_data else ""
    yield Fact(
        "Base model",
        f"{base.checkpoint}{revision}.{known} Overlap with the private examples: {base.overlap}; "
        f"{_stop(base.overlap_detail)}",
    )
    random = manifest.randomness
    drawn = [
        f"{what}: {text}"
        for what, text in (
            ("noise", random.noise_generator),
            ("batches", random.sampling_generator),
            ("number formats", random.float_path),
        )
        if text
    ]
    if drawn:
        yield Fact("Randomness", f"{_capital('; '.join(drawn))}.")
    versions = ", ".join(f"{name} {version}" for name, version in manifest.software.versions.items())
    yield Fact("Software", f"{versions}; {manifest.software.dtype} on {manifest.software.device}.")
    evidence = manifest.evidence
    yield Fact("Audit", _capital(_stop(evidence.audit)))
    yield Fact("To check", f"{evidence.verify_command} ({evidence.limits}).")
    if evidence.tensors_sha256:
        yield Fact("Tensors", f"SHA-256 {evidence.tensors_sha256}.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stop(text: Any) -> str:
    return str(text).rstrip(".") + "."
