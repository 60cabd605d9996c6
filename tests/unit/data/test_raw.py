from __future__ import annotations

import random

import pytest

from dpft.data.raw import RawDataset, RawSplit

ROWS = [("good film", "yes", 1), ("bad film", "no", 0), ("good", "film yes", 1), ("film", "", 0)]


def dataset(
    rows: list[tuple[str, str, int]], validation: list[tuple[str, str, int]] | None = None
) -> RawDataset:
    def split(rows: list[tuple[str, str, int]], origin: str) -> RawSplit:
        first, second, labels = (list(column) for column in zip(*rows, strict=True))
        return RawSplit((first, second), labels, origin)  # type: ignore[arg-type]

    return RawDataset(
        {"train": split(rows, "a"), "validation": split(validation or ROWS, "b")}, source="test"
    )


def test_content_digest_does_not_depend_on_order_or_validation() -> None:
    shuffled = ROWS[:]
    random.Random(1).shuffle(shuffled)
    assert shuffled != ROWS
    assert dataset(shuffled).content_digest == dataset(ROWS).content_digest
    assert dataset(ROWS, validation=ROWS[:1]).content_digest == dataset(ROWS).content_digest
    assert dataset(shuffled).ordered_digest != dataset(ROWS).ordered_digest
    assert dataset(ROWS, validation=ROWS[:1]).ordered_digest != dataset(ROWS).ordered_digest


@pytest.mark.parametrize(
    "changed",
    [
        ROWS[:-1],
        [*ROWS, ROWS[0]],
        [("good film", "yes", 0), *ROWS[1:]],
        [("good fil", "myes", 1), *ROWS[1:]],  # the same letters, cut elsewhere
        [("yes", "good film", 1), *ROWS[1:]],
    ],
)
def test_content_digest_depends_on_every_row(changed: list[tuple[str, str, int]]) -> None:
    assert dataset(changed).content_digest != dataset(ROWS).content_digest


def test_locate() -> None:
    assert RawSplit((["a"],), [0], "x.tsv", first_line=2).locate(5) == "x.tsv, line 7"
    assert RawSplit((["a"],), [0], "hub").locate(5) == "hub, row 5"
