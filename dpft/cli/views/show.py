"""What ``dpft show`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.text import Text

from dpft.cli.render import panel, score_rows, status_text, stdout
from dpft.cli.views.resumable import resume_command
from dpft.cli.views.sparkline import can_draw, sparkline
from dpft.cli.wording import duration, file_size, one_line, privacy
from dpft.runs.curves import validation_curve
from dpft.runs.statement import round_up_epsilon

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord
    from dpft.spec import RunSpec

__all__ = ["run"]

_MOST_FILES = 20

Rows = Iterator[tuple[str, RenderableType]]


def run(record: RunRecord, spec: RunSpec, manifest: Mapping[str, Any] | None) -> None:
    """One run: its statement, its scores, what ran, its files, and what to do next."""
    console = stdout()
    title = Text.assemble(
        (record.name, "bold"), f" · {record.dataset} · {record.finetune_mode} · ", status_text(record)
    )
    rows = [*_statement(record, manifest), *_opinions(manifest)]
    rows += [*score_rows(record.metrics, record.baselines), *_curve(console, record)]
    rows += [
        *_mechanism(record, manifest),
        *_setting(record, spec),
        *_files(record),
        *_next(record, manifest),
    ]
    panel(console, title, rows)


def _statement(record: RunRecord, manifest: Mapping[str, Any] | None) -> Rows:
    if manifest is not None:
        yield "statement", one_line(str(manifest["statement"]))
        why_not = manifest.get("sampling", {}).get("why_not")
        if why_not:
            yield "why not", Text(one_line(why_not), "red")
    elif record.error:
        yield "failed", Text(one_line(record.error), "red")
    yield "privacy", privacy(record.private, record.epsilon, record.delta, record.steps)


def _curve(console: Console, record: RunRecord) -> Rows:
    """The validation scores from first to last, where there was more than one."""
    name, values = validation_curve(record.run_dir)
    if len(values) > 1:
        line = sparkline(values, blocks=can_draw(console))
        told = f"  {values[0]:.4f} to {values[-1]:.4f}, best {max(values):.4f}, over {len(values)} epochs"
        yield "validation", Text.assemble((line, "green"), (f"  {name} {told.strip()}", "dim"))


def _opinions(manifest: Mapping[str, Any] | None) -> Rows:
    guarantee = manifest.get("guarantee", {}) if manifest else {}
    others = [
        f"{what} ε ≤ {round_up_epsilon(guarantee[name])}"
        for what, name in (("replace-one", "replace_one_epsilon"), ("by RDP", "second_epsilon"))
        if name in guarantee
    ]
    if others:
        yield "also", ", ".join(others)


def _mechanism(record: RunRecord, manifest: Mapping[str, Any] | None) -> Rows:
    mechanism = manifest.get("mechanism", {}) if manifest else {}
    if record.noise_multiplier is not None:
        clip = (
            f", C {mechanism['max_grad_norm']:g} ({mechanism['clipping']})" if "clipping" in mechanism else ""
        )
        yield "noise", f"σ {record.noise_multiplier:.4f}{clip}"
    if record.sample_rate is not None:
        batch = mechanism.get("expected_batch_size")
        of = f": {batch:,} examples per step, expected" if batch else ""
        yield "sample rate", f"q {record.sample_rate:.6g}{of}"
    yield "steps", f"{record.steps:,} of {record.steps_planned or 0:,} in {duration(record.seconds)}"


def _setting(record: RunRecord, spec: RunSpec) -> Rows:
    if record.trainable_parameters is not None:
        yield "trained", f"{record.trainable_parameters:,} parameters of {spec.model.checkpoint}"
    epochs = "epoch" if spec.optimisation.epochs == 1 else "epochs"
    yield (
        "settings",
        f"learning rate {spec.optimisation.learning_rate:g}, {spec.optimisation.epochs:g} {epochs}",
    )
    yield "created", record.created[:19].replace("T", " ") + " UTC"
    if record.tags:
        yield "tags", ", ".join(one_line(tag) for tag in record.tags)
    if record.note:
        yield "note", one_line(record.note)


def _files(record: RunRecord) -> Rows:
    names = sorted(
        path.relative_to(record.run_dir).as_posix()
        for path in record.run_dir.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )
    listed = [f"{name}  {file_size((record.run_dir / name).stat().st_size)}" for name in names[:_MOST_FILES]]
    if len(names) > _MOST_FILES:
        listed.append(f"and {len(names) - _MOST_FILES} more")
    yield "run", f"{record.run_id}, in {record.run_dir}"
    if listed:
        yield "files", "\n".join(listed)


def _next(record: RunRecord, manifest: Mapping[str, Any] | None) -> Rows:
    commands = [*filter(None, [resume_command(record)])]
    if manifest is not None and record.steps:
        commands += [f"dpft {verb} {record.name}" for verb in ("verify", "eval", "export")]
    elif not commands and record.status != "running":
        commands.append(f"dpft rm {record.name}")
    if commands:
        yield "next", Text("\n".join(commands), "cyan")
