"""Pushing, against a hub on this machine; in a fresh process, as offline mode is read on import."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dpft.export.proof import verify
from tests.hub_stand_in import COMMIT, SECOND_COMMIT, TOKEN, HubStandIn, hub_stand_in
from tests.unit.export.workshop import MadeRun

from .proof.conftest import list_anew, spec_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
REPO = "someone/my-model"


@pytest.fixture(scope="module")
def private(tiny_model: Path, glue_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """A run that was really trained: a manifest that verifies is not easily made up."""
    return _trained(tiny_model, glue_dir, tmp_path_factory.mktemp("pushed"), private=True)


@pytest.fixture(scope="module")
def ordinary(tiny_model: Path, glue_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """The same without privacy."""
    return _trained(tiny_model, glue_dir, tmp_path_factory.mktemp("ordinary"), private=False)


def _trained(model: Path, data: Path, place: Path, *, private: bool) -> MadeRun:
    from dpft.runs.store import Store
    from dpft.training.run import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPFT_HOME", str(place / "home"))
        patch.setenv("DPFT_CACHE", str(place / "cache"))
        spec = spec_for(model, data, private=private)
        return MadeRun(train(spec, store=Store(place / "home")), spec, None)


def dpft(run: MadeRun, place: Path, *options: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """``dpft export --push`` of a run, with Hugging Face's folders in ``place`` only."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "dpft", "export", run.record.run_id, "--json", *options],
        env={
            **kept,
            "PYTHONPATH": str(ROOT),
            "HF_HOME": str(place / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
            "DPFT_HOME": str(run.record.run_dir.parents[1]),
            "DPFT_CACHE": str(place / "cache"),
            **environment,
        },
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def at(server: HubStandIn) -> dict[str, str]:
    return {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN}


def download(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_new_repository_is_private_and_holds_the_export_to_the_byte(
    private: MadeRun, tmp_path: Path
) -> None:
    with hub_stand_in(REPO, {}, "model") as server:
        server.exists = False
        code, found = dpft(private, tmp_path, "-o", "out", "--push", REPO, **at(server))
        assert code == 0, found
        assert found["pushed"] == {
            "repo": REPO,
            "url": f"{server.endpoint}/{REPO}",
            "commit": SECOND_COMMIT,
            "private": True,
            "files": [entry["name"] for entry in found["files"]],
            "removed": [],
        }
        assert server.private
        assert len(server.commits) == 1  # manifest, card and weights appear together
        local = {
            path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
            for path in (tmp_path / "out").rglob("*")
            if path.is_file()
        }
        assert server.files == local
        assert verify(download(server.files, tmp_path / "fetched")).ok

        for options, error, hint in (
            ([], f"{REPO} holds an earlier export", "--overwrite"),
            (["--push", "a/b/c"], "no name of a repository", "NAMESPACE/NAME"),
        ):
            code, found = dpft(private, tmp_path, "-o", "again", "--push", REPO, *options, **at(server))
            assert (code, error in found["error"]["message"]) == (2, True), found
            assert hint in found["error"]["hint"]
        assert not (tmp_path / "again").exists()


def test_an_earlier_export_is_replaced_as_a_whole(private: MadeRun, tmp_path: Path) -> None:
    before = {"privacy.json": b"{}", "model.safetensors": b"old", ".gitattributes": b"*"}
    with hub_stand_in(REPO, before, "model") as server:
        server.private = True
        code, found = dpft(private, tmp_path, "-o", "o", "--push", REPO, "--overwrite", **at(server))
        assert code == 0, found
        assert found["pushed"]["removed"] == ["model.safetensors"]
        assert "model.safetensors" not in server.files
        assert ".gitattributes" in server.files
        assert server.commits[0]["parentCommit"] == COMMIT


def _no_token(server: HubStandIn) -> dict[str, str]:
    return {"HF_ENDPOINT": server.endpoint}


def _wrong_token(server: HubStandIn) -> dict[str, str]:
    return {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": "hf_wrong"}


def _foreign(server: HubStandIn) -> dict[str, str]:
    server.files["thesis.tex"] = b"much work"
    return at(server)


def _public(server: HubStandIn) -> dict[str, str]:
    server.private = False
    return at(server)


def _not_writable(server: HubStandIn) -> dict[str, str]:
    server.exists = server.writable = False
    return at(server)


@pytest.mark.parametrize(
    ("state", "code", "message", "hint"),
    [
        (_no_token, 1, "no token", "hf auth login"),
        (_wrong_token, 1, "does not accept the token", "hf auth login"),
        (_foreign, 2, "files that are no export", "another name"),
        (_public, 2, "is public", "--public"),
        (_not_writable, 1, "may not write", "push elsewhere"),
    ],
)
def test_refusals_are_one_line_and_leave_the_hub_as_it_is(
    state: Callable[[HubStandIn], dict[str, str]],
    code: int,
    message: str,
    hint: str,
    private: MadeRun,
    tmp_path: Path,
) -> None:
    with hub_stand_in(REPO, {}, "model") as server:
        server.private = True
        environment = state(server)
        before = dict(server.files)
        found_code, found = dpft(private, tmp_path, "-o", "o", "--push", REPO, **environment)
        assert (found_code, server.files, server.commits) == (code, before, [])
        assert message in found["error"]["message"]
        assert hint in found["error"]["hint"]
        assert "\n" not in found["error"]["message"]


def test_a_hub_out_of_reach_is_one_line_and_nothing_is_made(private: MadeRun, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for environment in ({"HF_ENDPOINT": endpoint}, {"HF_HUB_OFFLINE": "1"}):
        code, found = dpft(private, tmp_path, "-o", "o", "--push", REPO, HF_TOKEN=TOKEN, **environment)
        assert (code, found["error"]["type"]) == (1, "HubError")
        assert "out of reach" in found["error"]["message"]
    assert not (tmp_path / "o").exists()


def test_a_model_without_a_guarantee_stays_unless_it_is_asked_for(ordinary: MadeRun, tmp_path: Path) -> None:
    with hub_stand_in(REPO, {}, "model") as server:
        server.exists = False
        code, found = dpft(ordinary, tmp_path, "-o", "o", "--push", REPO, **at(server))
        assert (code, found["error"]["type"]) == (4, "PrivacyError")
        assert "trained without differential privacy" in found["error"]["message"]
        assert server.requests == []
        assert not (tmp_path / "o").exists()
        code, found = dpft(
            ordinary, tmp_path, "-o", "o", "--push", REPO, "--allow-unclaimed", "--public", **at(server)
        )
        assert (code, found.get("pushed", {}).get("private")) == (0, False), found
        assert not server.private


IN_PROCESS = """
import json, sys
from pathlib import Path
from dpft.errors import DpftError
from dpft.export.push import destination, push
from dpft.export.report import ExportReport
from dpft.runs.files import file_table

folder = Path(sys.argv[1])
to = destination(sys.argv[2], public=False, overwrite=False)
report = ExportReport("0" * 16, "peft", folder, tuple(file_table(folder)), 0.0)
try:
    print(json.dumps(push(report, to, allow_unclaimed=True).to_json()))
except DpftError as error:
    print(json.dumps({"code": error.exit_code, "message": error.message}))
"""


def test_planted_what_does_not_verify_never_leaves(private: MadeRun, tmp_path: Path) -> None:
    """An ε made smaller, a file of this machine, a changed weight: none passes, not even unclaimed."""
    whole = private.export(tmp_path / "whole").path

    def smaller(folder: Path) -> None:
        text = (folder / "privacy.json").read_text()
        epsilon = json.loads(text)["guarantee"]["epsilon"]
        (folder / "privacy.json").write_text(text.replace(str(epsilon), str(epsilon / 2)))

    def local(folder: Path) -> None:
        (folder / "local-only").mkdir()
        (folder / "local-only" / "training.jsonl").write_text('{"step": 1, "loss": 0.5}\n')

    def weight(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    for edit in (smaller, local, weight):
        folder = Path(shutil.copytree(whole, tmp_path / edit.__name__))
        edit(folder)
        list_anew(folder)
        with hub_stand_in(REPO, {}, "model") as server:
            server.exists = False
            kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
            done = subprocess.run(
                [sys.executable, "-c", IN_PROCESS, str(folder), REPO],
                env={**kept, **at(server), "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf")},
                capture_output=True,
                text=True,
                check=False,
            )
            found = json.loads(done.stdout)
            assert found.get("code") == 4, (edit.__name__, done.stdout, done.stderr)
            assert "does not verify" in found["message"]
            assert (server.exists, server.files, server.commits, server.uploads) == (False, {}, [], {})
