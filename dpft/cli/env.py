"""``dpft env``: where things are kept, and what is installed."""

from __future__ import annotations

import platform

from dpft import __version__
from dpft.cli import options

__all__ = ["EXAMPLE", "env"]

EXAMPLE = "Example: [cyan]dpft env --json[/cyan]"

_PACKAGES = ("torch", "transformers", "peft", "datasets", "dp-accounting", "safetensors", "pydantic", "typer")


def env(as_json: options.Json = False) -> None:
    """Show where runs and prepared data are kept, and the versions of what computes.

    [cyan]DPFT_HOME[/cyan] and [cyan]DPFT_CACHE[/cyan] move them.
    """
    from importlib.metadata import PackageNotFoundError, version

    from dpft.cli import render
    from dpft.runs import paths

    versions = {"dpft": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    places = {"DPFT_HOME": str(paths.home()), "DPFT_CACHE": str(paths.cache())}
    if as_json:
        render.document({**places, "versions": versions})
    else:
        render.environment(places, versions)
