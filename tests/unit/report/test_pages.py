"""The two formats: what is on them, what hostile text becomes, and what never gets there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest

from dpft.report import gather as gathering
from dpft.report.gather import gather
from dpft.report.html import render as as_html
from dpft.report.markdown import cell, code, plain
from dpft.report.markdown import render as as_markdown
from dpft.report.story import Story, tell
from dpft.report.words import without_paths
from dpft.runs.record import RunRecord
from dpft.runs.store import Store

from .shelf import shelve

FORMATS = {"html": as_html, "md": as_markdown}
HOSTILE = (
    "<script>alert(1)</script>'\"><img src=x onerror=alert(2)> {{ 7919*7907 }} ${7919*7907} "
    "</style> &amp; javascript:x"
)
VOID = {"meta", "link", "br", "img", "input", "hr"}


def story(*names: str) -> Story:
    records = Store().list() if not names else [Store().resolve(name) for name in names]
    return tell(gather(Store(), records), "All completed runs")


class Outline(HTMLParser):
    """Tags in order, with what is open checked on the way; ids; headings; links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in tags]


@pytest.fixture
def shelved() -> Story:
    """Five runs on two datasets, of every kind."""
    store = Store()
    shelve(store, "first", note="日本語のメモ", tags=("βασις",))
    shelve(store, "second", accuracy=0.8)
    shelve(store, "third", "ordinary")
    shelve(store, "fourth", "unclaimed", dataset="qnli")
    shelve(store, "fifth", "stopped", dataset="qnli", rows=None)
    return story()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_report_says_what_was_learnt_and_what_it_cost(shelved: Story, kind: str) -> None:
    page = FORMATS[kind](shelved).replace("\u00a0", " ")
    for text in ("first", "second", "third", "3.7697", "0.7500", "0.8000", "0.5100", "日本語のメモ", "βασις",
                 "no claim", "nothing released", "trained without differential privacy",
                 "Batches were not Poisson", "6.5000", "4.0510", "not known"):  # fmt: skip
        assert text in page, text
    for run in shelved.runs:
        assert run.manifest is not None
        assert plain(run.manifest.statement)[:60] in page


def test_the_page_is_sound_for_a_reader_of_screens(shelved: Story) -> None:
    outline = Outline(as_html(shelved))
    assert outline.of("html")[0]["lang"] == "en"
    assert [len(outline.of(tag)) for tag in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in outline.tags:
        for reference in (attributes.get("aria-labelledby") or "").split():
            assert reference in ids
    for link in outline.of("a"):
        assert str(link["href"]).removeprefix("#") in ids
    assert all(head.get("scope") in ("col", "row") for head in outline.of("th"))
    images = [svg for svg in outline.of("svg") if svg.get("aria-hidden") != "true"]
    assert images
    assert all(svg["role"] == "img" and svg["aria-labelledby"] for svg in images)
    scrolling = [div for div in outline.of("div") if div.get("class") == "scroll"]
    assert all(div["tabindex"] == "0" and div["role"] == "region" for div in scrolling)


def test_each_run_is_numbered_alike_in_chart_and_table(shelved: Story) -> None:
    group = next(group for group in shelved.groups if group.dataset == "sst2")
    assert group.scatter is not None
    assert {dot.number for dot in group.scatter.dots} == {run.number for run in group.runs}
    dots = {dot.number: dot for dot in group.scatter.dots}
    better, worse = (
        next(run.number for run in group.runs if run.record.name == name) for name in ("second", "first")
    )
    assert dots[better].y < dots[worse].y  # up is better
    assert {dot.shape.kind for dot in dots.values()} == {"private", "ordinary"}
    assert len({dot.shape.path for dot in dots.values()}) == 2  # told apart without colours


def test_what_is_not_drawn_is_named(shelved: Story) -> None:
    group = next(group for group in shelved.groups if group.dataset == "qnli")
    assert group.scatter is None
    assert [text.partition(" ")[2] for text in group.undrawn] == ["(nothing released)", "(no claim)"]
    assert all(text in as_html(shelved) for text in group.undrawn)


def test_runs_of_different_delta_are_not_compared_in_silence(shelved: Story) -> None:
    words = "δ differs between these runs"
    assert words not in as_html(shelved)
    group = next(group for group in shelved.groups if group.dataset == "sst2")
    run = next(run for run in group.runs if run.manifest is not None and run.manifest.guarantee is not None)
    assert run.manifest is not None
    assert run.manifest.guarantee is not None
    claim = run.manifest.guarantee.model_copy(update={"delta": 1e-5})
    other = replace(run, manifest=run.manifest.model_copy(update={"guarantee": claim}))
    members = [other if member is run else member for member in group.runs]
    assert words in as_html(tell(members, "Some runs"))


@pytest.mark.parametrize("field", ["note", "tag", "name", "model", "error", "dataset"])
def test_hostile_text_stays_text(field: str) -> None:
    record = shelve(Store(), "victim")
    changes = {
        "note": {"note": HOSTILE},
        "tag": {"tags": (HOSTILE,)},
        "name": {"name": HOSTILE},
        "model": {"model_checkpoint": HOSTILE},
        "error": {"error": HOSTILE, "status": "failed"},
        "dataset": {"dataset": HOSTILE},
    }[field]
    if field == "model":
        (record.run_dir / "privacy.json").unlink()
    hostile = tell(gather(Store(), [record.revise(**changes)]), "One run")
    outline = Outline(as_html(hostile))
    assert (len(outline.of("script")), len(outline.of("style")), outline.of("img")) == (1, 1, [])
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert str(7919 * 7907) not in " ".join(outline.texts)
    marked = as_markdown(hostile)
    for line in marked.splitlines():
        outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line)
        assert "<script" not in outside.replace("\\<", "")
        assert "<img" not in outside.replace("\\<", "")


def test_an_escape_that_is_switched_off_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: a page that trusts its runs."""
    from dpft.report import html, templating

    record = shelve(Store(), "victim").revise(note=HOSTILE)
    trusting = lambda **_: templating.environment(autoescape=False, filters={})  # noqa: E731
    monkeypatch.setattr(html, "environment", trusting)
    page = as_html(tell(gather(Store(), [record]), "One run"))
    assert "<script>alert(1)" in page  # so the test above has something to find


CANARY = "canary-7f3a"
PRIVATE_SCORE = 0.65432
HOME = "/home/somebody/private"
SECRETS = (CANARY, "somebody", "passwd", "987654321", "123456789", "1234.5", "0.6543")


@pytest.fixture
def watched() -> RunRecord:
    """A run with canaries where nothing is for sharing, and in a public file under private names."""
    record = shelve(
        Store(),
        "watched",
        checkpoint=f"{HOME}/bert",
        data_dir=f"{HOME}/glue",
        seed=987654321,
        note=f"data in {HOME}/rows.csv, C:\\Users\\somebody\\x and file:///etc/passwd",
    )
    line = {"step": 512, "validation_accuracy": PRIVATE_SCORE, "loss": CANARY, "note": CANARY}
    for name in ("local-only/training.jsonl", "local-only/README", "checkpoints/1/state.json", "audit.json"):
        place = record.run_dir / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(line))
    with (record.run_dir / "metrics.jsonl").open("a") as stream:
        public = {**line, "validation_accuracy": 0.75, "grad_norm": 0.123456789, "validation_text": CANARY}
        stream.write(json.dumps(public) + "\n")
    return record.revise(seconds=1234.5678, error=f"could not read {HOME}/rows.csv")


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_local_gets_into_a_report(kind: str, watched: RunRecord, tmp_path: Path) -> None:
    page = FORMATS[kind](tell(gather(Store(), [watched]), "One run"))
    for secret in (*SECRETS, str(tmp_path), f"{Path.home()}/"):
        assert secret not in page, secret
    assert "[local path]" in page.replace("\\", "")


def test_a_report_that_reads_private_files_is_caught(
    watched: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: scores from local-only/."""
    honest = gathering._scores
    monkeypatch.setattr(
        gathering, "_scores", lambda path: honest(path.parent / "local-only" / "training.jsonl")
    )
    page = as_html(tell(gather(Store(), [watched]), "One run"))
    assert any(secret in page for secret in SECRETS)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/srv/x", "[local path]"),
        ("in '/home/a b'", "in '[local path] b'"),
        ("~/models", "[local path]"),
        (r"D:\data\x", "[local path]"),
        (r"\\server\share", "[local path]"),
        ("file:///x/y", "[local path]"),
        ("(/données/é)", "([local path]"),
        ("https://example.org/a", "https://example.org/a"),
        ("nyu-mll/glue and/or 1/(2n)", "nyu-mll/glue and/or 1/(2n)"),
        ("σ / C", "σ / C"),
    ],
)
def test_paths_are_taken_out(text: str, left: str) -> None:
    assert without_paths(text) == left


@pytest.mark.parametrize("text", ["`", "``x", "a|b", "x\ny", "", "@me #1 https://x.org <b>"])
def test_code_spans_hold_whatever_is_in_them(text: str) -> None:
    span = code(text)
    fence = re.match("`+", span).group()  # type: ignore[union-attr]
    assert span.endswith(fence)
    assert fence not in span[len(fence) : -len(fence)]
    assert "\n" not in span
    assert "|" not in cell(text).replace("\\|", "")


def test_plain_text_pings_nobody() -> None:
    assert "@me" not in plain("@me")
    assert "#12" not in plain("#12")
    assert "https://" not in plain("https://x.org")


def test_the_page_fetches_nothing_and_is_policed(shelved: Story) -> None:
    page = as_html(shelved)
    outline = Outline(page)
    policy = next(str(meta["content"]) for meta in outline.of("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not any("src" in attributes or "style" in attributes for _, attributes in outline.tags)
    assert [link["href"] for link in outline.of("link")] == ["data:,"]
    assert not re.search(r"https?://|@import|url\(", page)


# -- colours


def _themes() -> dict[str, dict[str, str]]:
    css = (files("dpft.report") / "templates" / "report.css").read_text()
    light, dark, paper = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:3]
    return {
        name: dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", text))
        for name, text in (("light", light), ("dark", dark), ("paper", paper))
    }


def _luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark", "paper"])
@pytest.mark.parametrize("ink", ["ink", "soft", "link", "private", "ordinary", "focus"])
@pytest.mark.parametrize("ground", ["ground", "raised"])
def test_contrast_suffices(theme: str, ink: str, ground: str) -> None:
    colours = _themes()[theme]
    assert contrast(colours[ink], colours[ground]) >= 4.5


def test_too_little_contrast_is_caught() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") < 4.5
