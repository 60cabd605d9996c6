"""A run from the store that has something to load."""

from __future__ import annotations

from dpft.errors import NotFoundError
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import RunSpec

__all__ = ["trained_run"]


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
