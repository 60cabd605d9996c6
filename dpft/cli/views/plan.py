"""What ``dpft plan`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text

from dpft.cli.render import new_table, panel, plainly, stdout
from dpft.cli.views.chart import chart
from dpft.cli.wording import ledger_effect, privacy
from dpft.runs.statement import round_up_epsilon

if TYPE_CHECKING:
    from dpft.training.observer import LedgerEffect
    from dpft.training.prospect import Affordable, Curve, Frontier, Prospect

__all__ = ["answer", "frontier", "written"]

_WIDEST = 100
_HEIGHT = 8


def answer(
    examples: int,
    prospect: Prospect | None,
    effect: LedgerEffect | None,
    affordable: Affordable | None,
    *,
    data: str,
) -> None:
    """The plan, and what the target affords.

    Args:
        examples: n.
        prospect: the plan; None where nothing is affordable.
        effect: on the ledger, where there is one.
        affordable: the most that keeps to a target, if that was asked.
        data: options that name the data, as they would be typed.
    """
    console = stdout()
    rows: list[tuple[str, RenderableType]] = []
    if affordable is not None:
        rows.append(("affordable", _affordable(affordable)))
    if prospect is not None:
        rows += _facts(prospect)
    if prospect is not None and effect is not None:
        rows.append(("ledger", ledger_effect(effect, private=True)))
    if prospect is not None:
        rows.append(("next", Text(_command(prospect, data), "cyan")))
    panel(console, Text.assemble((f"{examples:,} examples", "bold"), " · ", ("planned", "cyan")), rows)
    console.print(Text("Nothing was loaded, trained or charged.", "dim"))


def _affordable(found: Affordable) -> Text:
    if not found.steps:
        why = f"; ε ≤ {round_up_epsilon(found.epsilon)} was spent before" if found.epsilon else ""
        return Text(f"nothing: one step would pass ε {found.target_epsilon:g}{why}", "yellow")
    return Text.assemble(
        (f"{found.epochs:.12g} epochs", "bold"),
        " at batch size ",
        (f"{found.batch_size:,}", "bold"),
        f": {found.steps:,} steps, in all ε ≤ {round_up_epsilon(found.epsilon)} of {found.target_epsilon:g}",
    )


def _facts(prospect: Prospect) -> list[tuple[str, RenderableType]]:
    schedule, found = prospect.schedule, prospect.guarantee
    return [
        (
            "steps",
            f"{schedule.steps:,} of {schedule.expected_batch_size:,} examples (expected), "
            f"{prospect.epochs:.12g} epochs",
        ),
        ("noise", f"σ {prospect.noise_multiplier:.4f}"),
        ("sample rate", f"q {schedule.sample_rate:.6g}"),
        ("privacy", privacy(True, found.epsilon, found.delta)),
        ("replace-one", f"ε ≤ {round_up_epsilon(found.epsilon_replace_one)}, if one example is exchanged"),
        ("by RDP", f"ε ≤ {round_up_epsilon(found.epsilon_rdp)}, a second opinion"),
    ]


def _command(prospect: Prospect, data: str) -> str:
    parts = [
        f"dpft train {data}",
        f"--batch-size {prospect.schedule.expected_batch_size}",
        f"--epochs {prospect.epochs:.12g}",
    ]
    if prospect.target_epsilon is not None:
        parts.append(f"--target-epsilon {prospect.target_epsilon:g}")
    else:
        parts.append(f"--noise-multiplier {prospect.noise_multiplier:.12g}")
    return " ".join(parts)


def frontier(prospect: Prospect, curves: Frontier) -> None:
    """ε against each quantity: drawn on a terminal, a table elsewhere."""
    console = stdout()
    batch, epochs = f"batch size {prospect.schedule.expected_batch_size:,}", f"{prospect.epochs:.12g} epochs"
    noise = f"σ {prospect.noise_multiplier:.4f}"
    _curve(console, "σ", curves.noise, f"{batch}, {epochs}")
    _curve(console, "batch size", curves.batch_size, f"{noise}, {epochs}")
    _curve(console, "epochs", curves.epochs, f"{noise}, {batch}")


def _curve(console: Console, quantity: str, curve: Curve, fixed: str) -> None:
    console.print()
    console.print(Text.assemble((f"ε against {quantity}", "bold"), f" ({fixed})"))
    if not console.is_terminal:
        table = new_table(f">{quantity}", ">steps", ">ε", "")
        for index, (value, steps, epsilon) in enumerate(
            zip(curve.values, curve.steps, curve.epsilons, strict=True)
        ):
            note = "planned" if index == curve.planned else ""
            table.add_row(f"{value:.12g}", f"{steps}", f"{epsilon:.4f}", note)
        plainly(console, table)
        return
    plain = console.is_dumb_terminal or not console.encoding.lower().startswith("utf")
    lines = chart(
        curve.values,
        curve.epsilons,
        width=min(console.width, _WIDEST) - 1,
        height=_HEIGHT,
        mark=curve.planned,
        plain=plain,
    )
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop")
    marker = "o" if plain else "●"
    console.print(
        Text(
            f"{marker} planned: {quantity} {curve.values[curve.planned]:.12g}, "
            f"ε ≤ {curve.epsilons[curve.planned]:.4f}",
            "dim",
        )
    )


def written(path: Path) -> None:
    """Where the drawing is."""
    stdout().print(f"frontier written to {path}", soft_wrap=True)
