"""The rules of the house, proved from syntax trees; and that each rule catches its breach."""

from __future__ import annotations

import ast
import importlib
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpft import tables

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "dpft"

# Each may import what stands to its left; parts in one brace never import each other.
LAYERS = (
    {"errors", "hub"},
    {"tables"},
    {"spec"},
    {"accounting", "runs"},
    {"privacy", "data", "tuning"},
    {"engines"},
    {"training", "export", "report"},
    {"audit"},
    {"cli"},
    {"__main__"},
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
FACADE = "__init__"  # dpft itself: its version is everyone's, its lazy names come from anywhere

TOP_LEVEL = {"dpft", "tests", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
BUILT = {"build", "dist", "PKG-INFO", "__pycache__"}
HEAVY = ("torch", "transformers", "peft", "datasets", "evaluate", "pydantic")
FORBIDDEN = {
    "click": "Typer carries its own",
    "pickle": "it runs code on loading",
    "dill": "it runs code on loading",
    "marshal": "it is not safe to load",
    "shelve": "it is pickle",
}
FORBIDDEN_CALLS = {("torch", "load"): "it unpickles", ("yaml", "load"): "use safe_load"}
MOST_LINES = 400


# -- the checkers: each yields "file:line: what is wrong"


def sources(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(root.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def part_of(module: str) -> str:
    """``dpft.runs.store`` is of ``runs``; ``dpft`` of its facade."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else FACADE


def module_of(path: Path, package: Path) -> str:
    pieces = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(pieces[:-1] if pieces[-1] == "__init__" and len(pieces) > 2 else pieces)


def imported_modules(path: Path, tree: ast.Module, package: Path) -> Iterator[tuple[int, str]]:
    """What a file imports from the package: anywhere, for type checking too, by any spelling."""
    name = package.name
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = [name, *path.relative_to(package).parts[:-1]]
                base = ".".join([*here[: len(here) - node.level + 1], *([base] if base else [])])
            found = [base]
            if base == name:
                found = [
                    f"{name}.{alias.name}" if _is_part(package, alias.name) else name for alias in node.names
                ]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found = [
                arg.value
                for arg in node.args[:1]
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            ]
        for module in found:
            if module == name or module.startswith(f"{name}."):
                yield node.lineno, module


def _is_part(package: Path, name: str) -> bool:
    return (package / name).is_dir() or (package / f"{name}.py").is_file()


def import_violations(package: Path) -> Iterator[str]:
    for path, tree in sources(package):
        where = path.relative_to(package.parent)
        mine = part_of(module_of(path, package))
        if mine == FACADE:
            continue
        if mine not in RANK:
            yield f"{where}:1: {mine} is no part of the house"
            continue
        for line, module in imported_modules(path, tree, package):
            theirs = part_of(module)
            if theirs in (mine, FACADE):
                continue
            if theirs not in RANK:
                yield f"{where}:{line}: {theirs} is no part of the house"
            elif RANK[theirs] >= RANK[mine]:
                yield f"{where}:{line}: {mine} must not import {theirs}"


def forbidden_violations(root: Path) -> Iterator[str]:
    for path, tree in sources(root):
        where = path.relative_to(root.parent)
        for node in ast.walk(tree):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
                for alias in node.names:
                    if (node.module, alias.name) in FORBIDDEN_CALLS:
                        yield f"{where}:{node.lineno}: {node.module}.{alias.name}"
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                reason = FORBIDDEN_CALLS.get((node.value.id, node.attr))
                if reason:
                    yield f"{where}:{node.lineno}: {node.value.id}.{node.attr}: {reason}"
            for module in modules:
                reason = FORBIDDEN.get(module.split(".")[0])
                if reason:
                    yield f"{where}:{node.lineno}: import {module}: {reason}"


def length_violations(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            yield f"{path.relative_to(root.parent)}:{lines}: more than {MOST_LINES} lines"


def export_violations(package: Path) -> Iterator[str]:
    """``__all__`` is there, sorted as ruff sorts it, and names every public class and function of a file."""
    for path, tree in sources(package):
        where = path.relative_to(package.parent)
        public = {
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        }
        exported = _exported(tree)
        if exported is None:
            if public:
                yield f"{where}:1: no __all__"
            continue
        if exported != sorted(exported, key=_isort_key):
            yield f"{where}:1: __all__ is not sorted"
        for name in sorted(public - set(exported)):
            yield f"{where}:1: {name} is public, and not in __all__"


def _exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            value = ast.literal_eval(node.value)
            return [str(name) for name in value]
    return None


def _isort_key(name: str) -> tuple[int, list[object]]:
    """Constants, then classes, then the rest; numbers inside names by their value."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]


def top_level_violations(repository: Path) -> Iterator[str]:
    for path in sorted(repository.iterdir()):
        name = path.name
        if not (name in TOP_LEVEL or name in BUILT or name.startswith(".") or name.endswith(".egg-info")):
            yield f"{name}: nothing else may stand at the top"


# -- the house keeps its rules


def test_each_part_imports_only_what_stands_to_its_left() -> None:
    assert list(import_violations(PACKAGE)) == []


def test_nothing_dangerous_or_vendored_is_imported() -> None:
    assert [*forbidden_violations(PACKAGE), *forbidden_violations(REPOSITORY / "tests")] == []


def test_files_are_short() -> None:
    assert [*length_violations(PACKAGE), *length_violations(REPOSITORY / "tests")] == []


def test_public_names_are_declared_and_sorted() -> None:
    assert list(export_violations(PACKAGE)) == []


def test_nothing_else_stands_at_the_top() -> None:
    assert list(top_level_violations(REPOSITORY)) == []


MODULES = sorted({module_of(path, PACKAGE) for path in PACKAGE.rglob("*.py")} - {"dpft.__main__"})


@pytest.mark.parametrize("module", MODULES)
def test_every_declared_name_exists(module: str) -> None:
    imported = importlib.import_module(module.removesuffix(".__init__"))
    missing = [name for name in getattr(imported, "__all__", ()) if not hasattr(imported, name)]
    assert missing == []


ENTRIES = [
    (constant, name)
    for constant in tables.__all__
    if isinstance(getattr(tables, constant), tables.Table)
    for name in getattr(tables, constant).names()
]


@pytest.mark.parametrize(("constant", "name"), ENTRIES)
def test_every_table_entry_imports(constant: str, name: str) -> None:
    assert getattr(tables, constant).get(name) is not None


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dpft.cli.app import main; code = main(['--help']); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "train" in done.stdout
    assert [name for name in HEAVY if name in done.stderr.split()] == []
    assert min(seconds) < 0.5  # of processor time: what else the machine does is not our doing


# -- and each rule catches its breach


def plant(root: Path, **files: str) -> Path:
    """A package called ``dpft``; ``__`` in a name stands for a folder."""
    package = root / "dpft"
    for name, text in {"__init__": "", **files}.items():
        path = package / (f"{name}.py" if name.startswith("__") else f"{name.replace('__', '/')}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for part in ("runs", "data", "tuning", "cli"):
        (package / part).mkdir(exist_ok=True)
        (package / part / "__init__.py").touch()
    for module in ("errors", "hub", "spec", "tables"):
        (package / f"{module}.py").touch()
    return package


@pytest.mark.parametrize(
    ("where", "statement"),
    [
        ("runs__store", "from dpft.data.task import Task"),
        ("runs__store", "import dpft.cli.app as front"),
        ("runs__store", "from dpft import cli"),
        ("runs__store", "from ..tuning import mode"),
        ("runs__store", "from .. import tuning"),
        ("runs__store", "def late():\n    from dpft.tuning import mode"),
        (
            "runs__store",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dpft.tuning import mode",
        ),
        ("runs__store", "import importlib\nimportlib.import_module('dpft.tuning.mode')"),
        ("runs__store", "from dpft.unheard import of"),
        ("data__task", "from dpft.tuning.mode import Mode"),  # the same brace
        ("tables", "from dpft.spec import RunSpec"),
        ("hub", "from dpft.errors import HubError"),
        ("newcomer__module", "x = 1"),
    ],
)
def test_a_forbidden_import_is_caught(tmp_path: Path, where: str, statement: str) -> None:
    assert len(list(import_violations(plant(tmp_path, **{where: statement})))) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "from dpft import __version__",
        "from dpft import hub",
        "from dpft.runs.files import write_atomic",
        "from .files import write_atomic",
        "from . import files",
        "from dpft.spec import RunSpec",
        "import json, dpft",
    ],
)
def test_an_allowed_import_is_not(tmp_path: Path, statement: str) -> None:
    assert list(import_violations(plant(tmp_path, runs__store=statement))) == []


@pytest.mark.parametrize(
    "statement",
    [
        "import click",
        "from click.testing import CliRunner",
        "import pickle as p",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import yaml\nyaml.load('x')",
    ],
)
def test_a_dangerous_import_is_caught(tmp_path: Path, statement: str) -> None:
    assert len(list(forbidden_violations(plant(tmp_path, runs__store=statement)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "def f(): ...",
        "__all__ = ['f']\n\n\ndef f(): ...\n\n\nclass G: ...",
        "__all__ = ['f', 'G']\n\n\ndef f(): ...\n\n\nclass G: ...",
    ],
)
def test_a_wrong_declaration_of_public_names_is_caught(tmp_path: Path, text: str) -> None:
    assert len(list(export_violations(plant(tmp_path, runs__store=text)))) == 1


def test_a_long_file_and_a_stray_one_are_caught(tmp_path: Path) -> None:
    package = plant(tmp_path, runs__store="x = 1\n" * (MOST_LINES + 1))
    (tmp_path / "scripts").mkdir()
    assert len(list(length_violations(package))) == 1
    assert [text.partition(":")[0] for text in top_level_violations(tmp_path)] == ["scripts"]
