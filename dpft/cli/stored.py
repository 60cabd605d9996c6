"""A run from the store that has something to load."""

from __future__ import annotations

import os
from pathlib import Path

from dpft.errors import AmbiguousError, NotFoundError
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import RunSpec

__all__ = ["folder_or_run", "trained_run"]


def folder_or_run(reference: str) -> Path | str:
    """Tell a folder from a reference to a run.

    What has a separator, or begins with ``.`` or ``~``, is a folder; anything else is a run if there is one,
    and a folder of that name if there is not. A run's directory in the store, or the ``adapter`` in it, means
    the run.

    Raises:
        NotFoundError: neither a run nor a folder.
        AmbiguousError: several runs are meant.
    """
    path = Path(reference).expanduser()
    store = Store()
    if "/" not in reference and os.sep not in reference and not reference.startswith((".", "~")):
        try:
            return store.resolve(reference).run_id
        except AmbiguousError:
            raise
        except NotFoundError:
            if not path.is_dir():
                raise
    place = path.resolve()
    run_dir = place.parent if place.name == "adapter" else place
    if run_dir.parent == (store.home / "runs").resolve():
        return run_dir.name
    return path


def trained_run(reference: str) -> tuple[RunRecord, RunSpec]:
    """The run that ``reference`` means, and its spec.

    Raises:
        NotFoundError: there is no such run, or it ended before there was anything to save.
        AmbiguousError: several runs are meant.
        StoreError: the run's spec is damaged.
    """
    store = Store()
    record = store.resolve(reference)
    if not (record.run_dir / "adapter").is_dir():
        raise NotFoundError(
            f"run {record.name} has no adapter: it is {record.status}",
            hint="only a run that took a step and came to its end has one; see 'dpft list'",
        )
    return record, store.spec(record)
