"""Where things are kept: the store and the cache.

``DPFT_HOME`` and ``DPFT_CACHE`` move them; otherwise the platform's user data and user cache folders are
used. What lives here was learnt from private data, so every folder made here is readable by its owner only.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from dpft.errors import StoreError
from dpft.runs.files import ensure_directory

__all__ = ["cache", "home", "prepared_dir"]


def home() -> Path:
    """The store: runs, registry, ledger and the local key.

    Returns:
        ``$DPFT_HOME`` (``~`` expanded, made absolute), or the user data folder; made with mode 0700 if
        missing.

    Raises:
        StoreError: the folder cannot be made.
    """
    return _folder("DPFT_HOME", platformdirs.user_data_path("dpft", appauthor=False))


def cache() -> Path:
    """What can be made again: ``$DPFT_CACHE``, or the user cache folder; made with mode 0700 if missing.

    Raises:
        StoreError: the folder cannot be made.
    """
    return _folder("DPFT_CACHE", platformdirs.user_cache_path("dpft", appauthor=False))


def prepared_dir() -> Path:
    """Prepared (tokenised) datasets, one folder for each cache key.

    Raises:
        StoreError: the folder cannot be made.
    """
    return ensure_directory(cache() / "prepared")


def _folder(variable: str, default: Path) -> Path:
    given = os.environ.get(variable, "")
    place = Path(given).expanduser().absolute() if given else default
    if place.exists() and not place.is_dir():
        raise StoreError(f"{variable} is {place}, which is not a folder", hint=f"set {variable} to a folder")
    try:
        return ensure_directory(place)
    except StoreError as error:
        raise StoreError(error.message, hint=f"set {variable} to a folder where you may write") from error
