"""Rows from the hub's ``nyu-mll/glue``, or from the Hugging Face cache when ``HF_HUB_OFFLINE=1``.

The hub is asked once, without retries, before ``datasets`` is let loose on it: the library alone retries an
unreachable hub again and again. The answer also names the commit, so that what was read can be stated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpft.data.raw import RawDataset, RawSplit
from dpft.data.task import TRAIN, Task
from dpft.errors import DataError, HubError

__all__ = ["REPOSITORY", "read_hub"]

REPOSITORY = "nyu-mll/glue"
_TIMEOUT = 10.0  # seconds, for the one question asked of the hub
_SERVER_ERROR = 500


def read_hub(task: Task) -> RawDataset:
    """Download a task's splits, or load them from the Hugging Face cache.

    Offline mode (``HF_HUB_OFFLINE`` or ``HF_DATASETS_OFFLINE``) never opens a connection.

    Raises:
        HubError: the hub is out of reach, or offline mode is on and the cache does not hold the data.
        DataError: the data is there, but its columns, labels or rows are not this task's.
    """
    import datasets

    offline = bool(datasets.config.HF_HUB_OFFLINE)
    commit = None if offline else _commit(task)
    try:
        loaded = datasets.load_dataset(REPOSITORY, task.hub_config, revision=commit)
    except Exception as error:  # datasets lets its HTTP client's and file systems' own errors through
        failure = f"loading failed: {_brief(error)}"
        if offline:
            failure = "offline mode is on and the cache does not hold it"
        raise _unavailable(task, failure, offline=offline) from error
    missing = {TRAIN, *task.validation_splits} - set(loaded)
    if missing:
        found = ", ".join(loaded)
        raise DataError(f"{_origin(task)} has no split {', '.join(sorted(missing))}; splits found: {found}")
    splits = {name: _split(task, name, loaded[name]) for name in task.files}
    # A cached set lies in a folder named after its commit.
    revision = commit or Path(loaded[TRAIN].cache_files[0]["filename"]).parent.name
    return RawDataset(splits=splits, source=f"the hub's {REPOSITORY} ({task.hub_config})", revision=revision)


def _commit(task: Task) -> str | None:
    """The repository's newest commit: one request, no retries. None from a mirror that does not tell."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit: str | None = huggingface_hub.HfApi().dataset_info(REPOSITORY, timeout=_TIMEOUT).sha
    except HfHubHTTPError as error:
        if error.response.status_code < _SERVER_ERROR:
            return None  # in reach: let the library find out what it needs
        raise _unavailable(task, f"the hub failed: {_brief(error)}", offline=False) from error
    except Exception as error:  # the HTTP client's own; which client that is depends on the hub library
        raise _unavailable(task, f"the hub did not answer: {_brief(error)}", offline=False) from error
    return commit


def _split(task: Task, name: str, loaded: Any) -> RawSplit:
    """Check one split as strictly as a file, and turn it into rows."""
    origin = f"{_origin(task)}, split {name}"
    columns = (*task.hub_text_columns, task.hub_label_column)
    absent = [column for column in columns if column not in loaded.column_names]
    if absent:
        raise DataError(f"{origin}: no column {absent[0]!r}; columns found: {', '.join(loaded.column_names)}")
    names = getattr(loaded.features[task.hub_label_column], "names", None)
    if names is not None and tuple(names) != task.labels:
        raise DataError(f"{origin}: labels are {', '.join(names)}; {task.name} has {', '.join(task.labels)}")

    *texts, labels = (loaded.data.column(column).to_pylist() for column in columns)
    split = RawSplit(texts=tuple(texts), labels=labels, origin=origin)
    if not len(split):
        raise DataError(f"{origin}: no rows")
    known = range(len(task.labels))
    for row, (*row_texts, label) in enumerate(zip(*texts, labels, strict=True)):
        if label not in known:
            raise DataError(f"{split.locate(row)}: unknown label {label!r}; accepted: 0 to {known[-1]}")
        # The published QQP has two pairs with one empty question. Nobody can mend them there, and such a pair
        # still has tokens; only a row with no text at all is refused.
        if any(text is None for text in row_texts) or not any(text.strip() for text in row_texts):
            raise DataError(f"{split.locate(row)}: empty text")
    return split


def _origin(task: Task) -> str:
    return f"{REPOSITORY} ({task.hub_config})"


def _unavailable(task: Task, failure: str, *, offline: bool) -> HubError:
    other = "unset HF_HUB_OFFLINE" if offline else "HF_HUB_OFFLINE=1 if the Hugging Face cache holds the data"
    return HubError(
        f"cannot load {_origin(task)}: {failure}",
        hint=f"give --data-dir with files in the GLUE layout ({task.glue_folder}/{task.train_file}), "
        f"or try -d demo, or {other}",
    )


def _brief(error: Exception) -> str:
    """An error in one short line."""
    return f"{' '.join(str(error).split()) or type(error).__name__:.120}"
