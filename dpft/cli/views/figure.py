"""The frontier as a file. The one place that needs matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpft.cli.views.chart import Axis
from dpft.errors import NotFoundError, UsageError
from dpft.runs.statement import round_up_delta

if TYPE_CHECKING:
    from dpft.training.prospect import Curve, Frontier, Prospect

__all__ = ["check", "write"]

_FORMATS = (".svg", ".png", ".pdf")
_SIZE = (11.0, 3.8)  # inches
_DOTS_PER_INCH = 160
_CURVE, _MARK = "#0072b2", "#d55e00"  # told apart without seeing colours, too (Okabe and Ito 2008)


def check(path: Path, *, overwrite: bool) -> None:
    """Refuse early what :func:`write` could not do, before anything is computed.

    Raises:
        UsageError: an ending that is no format, matplotlib missing, or a file that is there.
        NotFoundError: no such folder.
    """
    from importlib.util import find_spec

    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"--output {str(path)!r} is no {', '.join(_FORMATS)}", hint="give it such an ending")
    if not path.parent.is_dir():
        raise NotFoundError(f"no folder {str(path.parent)!r}", hint="make it first")
    if path.exists() and not (overwrite and path.is_file()):
        raise UsageError(f"{str(path)!r} is there already", hint="give --overwrite, or another --output")
    if find_spec("matplotlib") is None:
        raise UsageError(
            "--output needs matplotlib, which is not installed", hint="pip install 'dpft[plots]'"
        )


def write(path: Path, prospect: Prospect, curves: Frontier) -> None:
    """Draw three curves side by side, and write them whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    from dpft.runs.files import write_atomic

    write_atomic(path, _drawn(prospect, curves, path.suffix.lower().removeprefix(".")))


def _drawn(prospect: Prospect, curves: Frontier, form: str) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    schedule = prospect.schedule
    batch, epochs = f"batch size {schedule.expected_batch_size:,}", f"{prospect.epochs:.6g} epochs"
    noise = f"σ {prospect.noise_multiplier:.4g}"
    with rc_context({"svg.hashsalt": "dpft", "font.size": 9.0, "axes.unicode_minus": False}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        panels = figure.subplots(1, 3)
        _panel(panels[0], curves.noise, "noise multiplier σ", f"{batch}, {epochs}")
        _panel(panels[1], curves.batch_size, "expected batch size", f"{noise}, {epochs}")
        _panel(panels[2], curves.epochs, "epochs", f"{noise}, {batch}")
        figure.suptitle(
            f"ε (upper bound) at δ ≤ {round_up_delta(schedule.delta)}, {schedule.examples:,} examples; "
            "Poisson-subsampled Gaussian, add or remove one example"
        )
        buffer = io.BytesIO()
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        figure.savefig(buffer, format=form, dpi=_DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()


def _panel(axes: Any, curve: Curve, quantity: str, fixed: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.plot(curve.values, curve.epsilons, color=_CURVE, marker=".", markersize=4)
    x, y = curve.values[curve.planned], curve.epsilons[curve.planned]
    axes.plot([x], [y], color=_MARK, marker="o", linestyle="none", label=f"planned: ε ≤ {y:.4f}")
    axes.set_xlabel(quantity)
    axes.set_ylabel("ε")
    axes.set_title(fixed, fontsize=9)
    axes.grid(visible=True, which="both", linewidth=0.3, alpha=0.6)
    axes.legend(frameon=False)
    for values, scale, axis in (
        (curve.values, axes.set_xscale, axes.xaxis),
        (curve.epsilons, axes.set_yscale, axes.yaxis),
    ):
        if Axis.of(values).logarithmic:
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
            axis.set_minor_formatter(NullFormatter())
