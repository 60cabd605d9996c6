"""The demo task: synthetic reviews, the same on every machine, with no download and nobody's secrets.

Each text praises or blames. Most say so plainly; the others deny an adjective ("far from dull"), pass a
verdict without any adjective, or hold two opposite clauses of which one decides ("the room was cramped, but
the balcony was superb" is positive). Counting words is therefore not enough, and neither is a classification
head that was never trained.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from dpft.data.demo_words import HELD_OUT, SUBJECTS, VERDICTS, Subject
from dpft.data.task import TRAIN, Columns, Task

__all__ = ["REVISION", "TASK", "generate"]

REVISION = "1"
"""Changes whenever one character of the generated text does."""

SEED = 20_240_229  # public: the data is synthetic
ROWS = {TRAIN: 4000, "validation": 600}
POSITIVE_SHARE = 0.55
HELD_OUT_SHARE = 0.2

NEGATIVE, POSITIVE = 0, 1

_DEGREES = ("", "", "", "very ", "really ", "quite ", "truly ", "simply ", "rather ", "thoroughly ")
_OPENERS = ("", "", "", "", "Honestly, ", "Well, ", "In short: ", "A note for others: ")
_OCCASIONS = (
    "", "", "", "on our first visit, ", "last Tuesday ", "to my surprise ", "all in all, ", "in the end ",
    "for a rainy afternoon, ", "after all the fuss, ", "this spring ", "as everybody had told us, ",
)  # fmt: skip

_PLAIN = (
    "{occasion}{part} {was} {degree}{adjective}", "I found that {part} {was} {degree}{adjective}",
    "{part} of {thing} {was} {degree}{adjective}", "everyone agreed that {part} {was} {degree}{adjective}",
    "{part} {was} {adjective} and {degree}{second}", "as for {thing}, {part} {was} {degree}{adjective}",
    "what I remember of {thing} is that {part} {was} {degree}{adjective}",
    "{part} {was} {degree}{adjective}, and {verdict}",
)  # fmt: skip
_DENIED = (
    "{part} {was} not {adjective} at all", "{part} {was} far from {adjective}",
    "{part} {was} anything but {adjective}", "nobody could say that {part} {was} {adjective}",
    "I would not say that {part} {was} {adjective}", "{part} {was} by no means {adjective}",
    "{part} {was} hardly {adjective}", "I had heard that {part} {was} {adjective}, which is simply not true",
    "{part} {was} never {adjective}, not even once",
)  # fmt: skip
_CONTRAST = (
    "{lost}, but {kept}", "{lost}, but {kept}", "{lost}, yet {kept}", "although {lost}, {kept}",
    "{lost}; still, {kept}", "{lost} and {also_lost}, but {kept}", "while {lost}, {kept}",
    "granted, {lost}, but {kept}", "{kept}, even though {lost}",
)  # fmt: skip
_VERDICT = (
    "{thing}: {verdict}", "{occasion}we tried {thing}, and {verdict}",
    "{verdict}, and that is all I say about {thing}",
    "my cousin and I chose {thing}; {verdict}", "about {thing}: {verdict}",
)  # fmt: skip


class _Writer:
    """Writes reviews with one stream of random numbers.

    Only ``random.random`` is used: Python promises that its sequence for a seed never changes, and promises
    nothing of ``choice`` and ``shuffle``.
    """

    def __init__(self, stream: random.Random, *, held_out: bool) -> None:
        self._random = stream.random
        self._held_out = held_out

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, items: Sequence[str]) -> str:
        """One of ``items``; those after the held-out mark in the validation split only."""
        pool = items
        if HELD_OUT in items:
            mark = items.index(HELD_OUT)
            pool = items[mark + 1 :] if self._held_out and self.chance(HELD_OUT_SHARE) else items[:mark]
        return pool[int(self._random() * len(pool))]

    def several(self, items: Sequence[str], count: int) -> list[str]:
        """Different ones of ``items``."""
        picked: list[str] = []
        while len(picked) < count:
            item = self.pick(items)
            if item not in picked:
                picked.append(item)
        return picked

    def part(self, subject: Subject) -> dict[str, str]:
        """A part of the subject and its verb."""
        part, _, was = self.pick(subject.parts).rpartition(" ")
        return {"part": part, "was": was}

    def plain(self, subject: Subject, label: int) -> str:
        adjective, second = self.several(subject.praise if label == POSITIVE else subject.blame, 2)
        return self.pick(_PLAIN).format(
            **self.part(subject),
            thing=self.pick(subject.things),
            degree=self.pick(_DEGREES),
            occasion=self.pick(_OCCASIONS),
            adjective=adjective,
            second=second,
            verdict=self.pick(VERDICTS[label]),
        )

    def denied(self, subject: Subject, label: int) -> str:
        """The opposite, denied; half of the time what is true follows."""
        true, untrue = (subject.praise, subject.blame)[:: 1 if label == POSITIVE else -1]
        text = self.pick(_DENIED).format(**self.part(subject), adjective=self.pick(untrue))
        return f"{text}; {self.pick(_DEGREES)}{self.pick(true)}, in fact" if self.chance(0.5) else text

    def verdict(self, subject: Subject, label: int) -> str:
        return self.pick(_VERDICT).format(
            thing=self.pick(subject.things),
            occasion=self.pick(_OCCASIONS),
            verdict=self.pick(VERDICTS[label]),
        )

    def clause(self, subject: Subject, label: int, part: str) -> str:
        if self.chance(0.35):
            return self.pick(VERDICTS[label])
        adjectives = subject.praise if label == POSITIVE else subject.blame
        return f"{part} {self.pick(_DEGREES)}{self.pick(adjectives)}"

    def contrast(self, subject: Subject, label: int) -> str:
        """Two opposite clauses, or three, of which the one that the conjunction favours decides."""
        lost, also_lost, kept = self.several(subject.parts, 3)
        return self.pick(_CONTRAST).format(
            lost=self.clause(subject, 1 - label, lost),
            also_lost=self.clause(subject, 1 - label, also_lost),
            kept=self.clause(subject, label, kept),
        )

    def review(self, label: int) -> str:
        """One text that says ``label``."""
        subject = SUBJECTS[int(self._random() * len(SUBJECTS))]
        draw = self._random()
        kind: Callable[[Subject, int], str]
        if draw < 0.60:
            kind = self.plain
        elif draw < 0.68:
            kind = self.denied
        elif draw < 0.86:
            kind = self.verdict
        else:
            kind = self.contrast
        text = self.pick(_OPENERS) + kind(subject, label)
        return text[0].upper() + text[1:] + self.pick((".", ".", ".", ".", "!"))


def generate() -> Mapping[str, Columns]:
    """Make the demo's rows.

    Returns:
        For each split, its texts (one column) and labels (0 negative, 1 positive); always the same, and no
        text twice, be it in one split or across both.
    """
    stream = random.Random(SEED)  # noqa: S311 - a public, repeatable data set; no secret hangs on it
    seen: set[str] = set()
    splits: dict[str, Columns] = {}
    for split, rows in ROWS.items():
        writer = _Writer(stream, held_out=split != TRAIN)
        texts: list[str] = []
        labels: list[int] = []
        while len(texts) < rows:
            label = POSITIVE if writer.chance(POSITIVE_SHARE) else NEGATIVE
            text = writer.review(label)
            if text not in seen:
                seen.add(text)
                texts.append(text)
                labels.append(label)
        splits[split] = ((texts,), labels)
    return splits


TASK = Task(
    name="demo",
    description="built-in synthetic reviews (invented text, nothing private), to try dpft without any data",
    text_columns=("text",),
    labels=("negative", "positive"),
    generate=generate,
    generator_revision=REVISION,
)
