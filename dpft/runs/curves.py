"""What ``metrics.jsonl`` has of a run's way: validation scores and ε over its steps."""

from __future__ import annotations

import json
import math
from pathlib import Path

__all__ = ["validation_curve"]

_PREFIX = "validation_"


def validation_curve(run_dir: Path) -> tuple[str, list[float]]:
    """The scores of the validation split, one for each time it was scored.

    Args:
        run_dir: the run's folder.

    Returns:
        The metric's name (accuracy where there is one) and its values in order; no values where the file is
        missing. Lines that are torn or are no numbers are left out.
    """
    curves: dict[str, list[float]] = {}
    try:
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        for name, value in values.items() if isinstance(values, dict) else ():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name.startswith(_PREFIX) and number and math.isfinite(value):
                curves.setdefault(name.removeprefix(_PREFIX), []).append(float(value))
    name = "accuracy" if "accuracy" in curves else next(iter(curves), "accuracy")
    return name, curves.get(name, [])
