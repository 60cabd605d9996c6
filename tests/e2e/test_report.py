"""``dpft report`` through the installed command, and its page in a real browser."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpft.runs.store import Store
from tests.e2e.browser import Page, find_browser
from tests.unit.report.shelf import shelve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed: apt install chromium"),
]

NAMES = ("amber-heron", "a-name-of-sixty-four-characters-which-is-as-long-as-it-may-be-00")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of seven runs."""
    folder = tmp_path_factory.mktemp("reported")
    store = Store(folder / "home")
    for number, name in enumerate(NAMES):
        shelve(store, name, accuracy=0.7 + number / 20, note="日本語のメモ " * 9)
    shelve(store, "hostile", note="<script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>")
    shelve(store, "ordinary", "ordinary", accuracy=0.9)
    shelve(store, "unclaimed", "unclaimed", dataset="qnli")
    shelve(store, "stopped", "stopped", dataset="demo")
    shelve(store, "arabic", dataset="qnli", tags=("مقارنة",), note="ملاحظة")
    place = folder / "report.html"
    command = [sys.executable, "-m", "dpft", "report", "-o", str(place), "--json"]
    environment = {"DPFT_HOME": str(folder / "home"), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    answer = json.loads(done.stdout)
    assert (answer["path"], answer["format"], len(answer["runs"])) == (str(place), "html", 7)
    return place


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    binary = find_browser()
    assert binary is not None
    with Page(binary, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1200])
def test_it_fits_its_window_says_nothing_and_fetches_nothing(
    page: Page, written: Path, width: int, scheme: str
) -> None:
    page.open(written, width=width, prefers_color_scheme=scheme)
    assert page.run("document.documentElement.scrollWidth") <= width
    beyond = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg, .skip') &&"
    beyond += f" e.getBoundingClientRect().right > {width} + 0.5).map(e => e.outerHTML.slice(0, 80))"
    assert page.run(beyond) == []
    assert page.messages == []
    assert page.requests == [written.as_uri()]
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(16, 20, 24)"}[scheme]


def test_a_page_that_breaks_these_rules_is_caught(page: Page, written: Path, tmp_path: Path) -> None:
    """The planted faults: something wide, a fetch, an error."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><div style='width:900px'>x</div><img src='http://example.org/x.png'>"
        "<script>console.error('no'); undefined_name</script>"
    )
    page.open(bad, width=360)
    assert page.run("document.documentElement.scrollWidth") > 360
    assert "http://example.org/x.png" in page.requests
    assert len(page.messages) >= 2


def test_the_table_is_sorted_from_the_keyboard(page: Page, written: Path) -> None:
    page.open(written)
    accuracies = "[...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[3].textContent)"
    newest_first = page.run(accuracies)
    focused = "document.activeElement.textContent"
    for _ in range(60):
        page.press("Tab")
        if page.run(focused) == "Accuracy":
            break
    assert page.run(focused) == "Accuracy"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    assert page.run(accuracies) == sorted(newest_first)
    assert page.run("document.activeElement.closest('th').ariaSort") == "ascending"
    assert page.run("document.querySelector('[role=status]').textContent") == "Sorted by Accuracy, ascending."
    page.press(" ")
    assert page.run(accuracies) == sorted(newest_first, reverse=True)
    assert page.run("document.querySelectorAll('[aria-sort]').length") == 1


def test_what_has_no_epsilon_comes_last_either_way(page: Page, written: Path) -> None:
    page.open(written)
    epsilons = "[...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[2].dataset.value)"
    click = "document.querySelectorAll('.sortable th button')[2].click()"
    for _ in range(2):
        page.run(click)
        assert [value == "" for value in page.run(epsilons)] == [False] * 4 + [True] * 3


def test_it_is_whole_without_scripts(page: Page, written: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(written, width=360)
        assert page.run("document.querySelectorAll('.sortable tbody tr').length") == 7
        assert page.run("document.querySelectorAll('.sortable th button').length") == 0
        assert page.run("document.querySelector('.sorting').checkVisibility()") is False
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_a_screen_reader_finds_its_way(page: Page, written: Path) -> None:
    page.open(written)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    roles = [role for role, _ in named]
    assert {"banner", "navigation", "main", "contentinfo"} <= set(roles)
    unnamed = {"image", "region", "link", "button", "article", "navigation", "columnheader"}
    assert [role for role, name in named if role in unnamed and not name.strip()] == []
    assert ("image", "Privacy against accuracy on sst2") in named
    assert any(role == "rowheader" and "amber-heron" in name for role, name in named)


def test_paper_has_the_manifests_whole_and_no_controls(page: Page, written: Path) -> None:
    page.open(written, prefers_color_scheme="dark")
    page.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    facts = "[...document.querySelectorAll('article details dl')].map(e => e.getBoundingClientRect().height)"
    assert min(page.run(facts)) > 100
    paper = base64.b64decode(page.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])
    assert paper.startswith(b"%PDF")


def test_motion_is_reduced_where_it_is_wished(page: Page, written: Path) -> None:
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    page.open(written)
    assert page.run(behaviour) == "smooth"
    page.open(written, prefers_reduced_motion="reduce")
    assert page.run(behaviour) == "auto"
