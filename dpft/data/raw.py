"""Rows as they were read, before tokenisation, and what identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dpft.data.task import TRAIN

__all__ = ["RawDataset", "RawSplit", "ordered_digest", "unordered_digest"]


@dataclass(frozen=True)
class RawSplit:
    """The rows of one split.

    Attributes:
        texts: one list per text column, all as long as ``labels``.
        labels: integers into the task's labels.
        origin: the file, or what else the rows came from; for error texts, never for a manifest.
        first_line: the line number of row 0 in a file; None where rows have no lines.
        numbers: what to call each row by, where rows are not one line each; ``first_line`` is None then.
        unit: what ``numbers`` count: "line", or "row".
    """

    texts: tuple[list[str], ...]
    labels: list[int]
    origin: str
    first_line: int | None = None
    numbers: Sequence[int] | None = None
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.labels)

    def locate(self, row: int) -> str:
        """Where a row stands, for an error text."""
        if self.numbers is not None:
            return f"{self.origin}, {self.unit} {self.numbers[row]}"
        if self.first_line is None:
            return f"{self.origin}, row {row}"
        return f"{self.origin}, line {self.first_line + row}"

    @cached_property
    def row_digests(self) -> list[bytes]:
        """One SHA-256 per row over its label and texts, with their lengths, so that no two rows collide."""
        digests = []
        for *texts, label in zip(*self.texts, self.labels, strict=True):
            parts = [label.to_bytes(8, "big", signed=True)]
            for text in texts:
                encoded = text.encode("utf-8", "surrogatepass")
                parts += (len(encoded).to_bytes(8, "big"), encoded)
            digests.append(hashlib.sha256(b"".join(parts)).digest())
        return digests


def ordered_digest(digests: Iterable[bytes]) -> bytes:
    """Identify rows in their order."""
    return hashlib.sha256(b"".join(digests)).digest()


def unordered_digest(digests: Iterable[bytes]) -> bytes:
    """Identify a multiset of rows: the same for every order, different when a row is added twice."""
    return hashlib.sha256(b"".join(sorted(digests))).digest()


@dataclass(frozen=True)
class RawDataset:
    """All splits of a task.

    Attributes:
        splits: split name to rows; ``train`` and at least one validation split.
        source: what kind of place the rows came from, free of paths, so that it can be published.
        revision: the source's version, where it has one (a hub commit, the generator's number).
        carved: the validation rows were set aside from the training rows' own file.
    """

    splits: Mapping[str, RawSplit]
    source: str
    revision: str | None = None
    carved: bool = False

    @cached_property
    def content_digest(self) -> bytes:
        """Identifies the train split whatever its order, file name or source.

        Rows that were set aside from its file count too, so that runs on one file share a ledger whether or
        not they are given a validation file.

        Private: a plain hash lets an outsider confirm a guess of the whole split. Publish it only under a key
        that stays local (the ledger's HMAC).
        """
        trained = [split for name, split in self.splits.items() if self.carved or name == TRAIN]
        return unordered_digest(digest for split in trained for digest in split.row_digests)

    @cached_property
    def ordered_digest(self) -> bytes:
        """Identifies every split, rows in order; as private as :attr:`content_digest`."""
        return ordered_digest(
            digest
            for name, split in sorted(self.splits.items())
            for digest in (hashlib.sha256(name.encode()).digest(), ordered_digest(split.row_digests))
        )
