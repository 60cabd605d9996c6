"""Where figures were measured: date, processor, versions."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

__all__ = ["machine"]


def machine() -> str:
    """Date, processor and versions, for the record."""
    versions = []
    for name in ("torch", "transformers", "peft", "numpy", "opacus", "private-transformers"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    today = datetime.datetime.now(datetime.UTC).date()
    return f"{today}; {_processor()}, {os.cpu_count()} logical cores; " + ", ".join(versions)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "?")
