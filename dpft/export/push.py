"""An export's way to the hub: everything that can be refused is refused before the first byte leaves.

What is uploaded is the verified export and nothing else, in one commit. A repository is made private unless
it was asked to be public, and one that exists is replaced only if it holds an earlier export.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from dpft import hub
from dpft.errors import HubError, PrivacyError, UsageError
from dpft.export.proof import verify
from dpft.export.report import ExportReport
from dpft.runs.statement import NOTHING_CLAIMED

__all__ = ["Destination", "Pushed", "check_claim", "destination", "push"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,94}/[A-Za-z0-9_][\w.-]{0,94}", re.ASCII)
_CLIENT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]  # httpx's, or its successor's
_KEPT = ".gitattributes"  # the hub's own
_LOGIN = "log in with 'hf auth login', or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Destination:
    """A repository that may be written to.

    Attributes:
        repo: ``NAMESPACE/NAME``.
        public: whether anyone will be able to read it.
        exists: whether it is there already.
        parent: its newest commit, where it exists.
        stale: files of the earlier export in it.
        api: the client, with the token that was accepted.
    """

    repo: str
    public: bool
    exists: bool
    parent: str | None
    stale: tuple[str, ...]
    api: HfApi


@dataclass(frozen=True)
class Pushed:
    """What is on the hub now.

    Attributes:
        repo: ``NAMESPACE/NAME``.
        url: of its page.
        commit: that holds the export, and nothing else.
        public: whether anyone can read it.
        files: their names.
        removed: names of the files of an earlier export that went.
    """

    repo: str
    url: str
    commit: str
    public: bool
    files: tuple[str, ...]
    removed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As ``export --json`` prints it."""
        return {
            "repo": self.repo,
            "url": self.url,
            "commit": self.commit,
            "private": not self.public,
            "files": list(self.files),
            "removed": list(self.removed),
        }


def check_claim(manifest: Mapping[str, Any], *, allow_unclaimed: bool) -> None:
    """Refuse to hand on a model that promises its examples nothing.

    Args:
        manifest: the run's ``privacy.json``.
        allow_unclaimed: the user knows, and wants to.

    Raises:
        PrivacyError: there is no valid (ε, δ).
    """
    if allow_unclaimed or (manifest.get("private") and manifest.get("guarantee")):
        return
    how = str(manifest["statement"]) if manifest.get("private") else "trained without differential privacy"
    raise PrivacyError(
        f"this run has no guarantee to hand on ({how}): it is not pushed",
        hint="export it without --push; if its examples are no secret, say --allow-unclaimed",
    )


def destination(repo: str, *, public: bool, overwrite: bool) -> Destination:
    """Ask the hub whether ``repo`` can be written, and hold what is there against what is wanted.

    Args:
        repo: ``NAMESPACE/NAME``.
        public: whether anyone may read it.
        overwrite: whether an earlier export in it may be replaced.

    Raises:
        UsageError: no such name can be, or what is there must not be replaced.
        HubError: the hub is out of reach, or there is no token that it accepts.
    """
    if not _NAME.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith((".git", "-", ".")):
        raise UsageError(f"{repo!r} is no name of a repository", hint="give --push NAMESPACE/NAME")
    why_not = hub.out_of_reach_because()
    if why_not:
        raise HubError(
            f"nothing can be pushed: the hub is out of reach ({why_not})",
            hint="try again with a connection; without --push the export is made here",
        )
    token = get_token()
    if token is None:
        raise HubError("nothing can be pushed: there is no token for the hub", hint=_LOGIN)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT", hub.ENDPOINT).rstrip("/"), token=token)
    with _in_a_line(repo):
        api.whoami()
        try:
            found = api.model_info(repo)
        except RepositoryNotFoundError:
            return Destination(repo, public, exists=False, parent=None, stale=(), api=api)
    stale = tuple(sorted({entry.rfilename for entry in found.siblings or ()} - {_KEPT}))
    if stale and ("privacy.json" not in stale or not overwrite):
        earlier = "privacy.json" in stale
        raise UsageError(
            f"{repo} holds {'an earlier export' if earlier else f'{len(stale)} files that are no export'}",
            hint="replace it with --overwrite, or push to another name"
            if earlier
            else "push to another name",
        )
    if not found.private and not public:
        raise UsageError(
            f"{repo} is public, and anyone could read the model",
            hint="say --public if that is meant, or push to another name",
        )
    return Destination(repo, public=not found.private, exists=True, parent=found.sha, stale=stale, api=api)


def push(report: ExportReport, to: Destination, *, allow_unclaimed: bool = False) -> Pushed:
    """Verify an export as anyone would, and upload its files in one commit.

    Args:
        report: of the export; its files are uploaded, and no other.
        to: where; of :func:`destination`.
        allow_unclaimed: let a model pass that claims nothing.

    Raises:
        PrivacyError: the export does not verify; nothing is uploaded.
        HubError: the hub refused, or did not answer; no commit was made.
    """
    _check(report, allow_unclaimed=allow_unclaimed)
    names = [entry.name for entry in report.files]
    removed = tuple(name for name in to.stale if name not in names)
    operations = [
        *(CommitOperationAdd(name, os.fspath(report.path / name)) for name in names),
        *(CommitOperationDelete(name) for name in removed),
    ]
    with _in_a_line(to.repo), _quietly():
        if not to.exists:
            to.api.create_repo(to.repo, private=not to.public, exist_ok=False)
        made = to.api.create_commit(
            to.repo,
            operations,
            commit_message=f"dpft run {report.run_id}, exported as {report.format}",
            parent_commit=to.parent,
        )
        there = to.api.model_info(to.repo, revision=made.oid)
    found = {entry.rfilename for entry in there.siblings or ()} - {_KEPT}
    if found != set(names):
        raise HubError(
            f"commit {made.oid[:12]} of {to.repo} does not hold the export: "
            f"{', '.join(sorted(found ^ set(names)))} differ",
            hint="look at the repository; a .gitignore in it may keep files out",
        )
    url = f"{to.api.endpoint}/{to.repo}"
    return Pushed(to.repo, url, made.oid, not there.private, tuple(names), removed)


def _check(report: ExportReport, *, allow_unclaimed: bool) -> None:
    found = verify(report.path)
    problems = [
        check
        for check in found.failed
        if not (allow_unclaimed and check.name == "epsilon" and found.statement == NOTHING_CLAIMED)
    ]
    if problems:
        raise PrivacyError(
            f"the export does not verify, and is not pushed: {problems[0].name}: {problems[0].detail}",
            hint=f"see 'dpft verify {report.path}'",
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the client's own progress bars, which would break into ours."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _in_a_line(repo: str) -> Iterator[None]:
    """Say what went wrong between us and the hub; its own texts may quote addresses with keys in them."""
    try:
        yield
    except HfHubHTTPError as error:
        raise _refused(repo, error.response.status_code) from error
    except _CLIENT_ERROR as error:
        raise HubError(
            f"the hub stopped answering ({type(error).__name__}): nothing was committed to {repo}",
            hint="try again; files that are there already are not sent twice",
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        response = getattr(error.__cause__, "response", None)
        if response is not None:
            raise _refused(repo, response.status_code) from error
        raise HubError(
            f"the upload to {repo} failed ({type(error).__name__}): nothing was committed",
            hint="try again; DPFT_DEBUG=1 shows more",
        ) from error


def _refused(repo: str, status: int) -> HubError:
    if status == HTTPStatus.UNAUTHORIZED:
        return HubError("the hub does not accept the token", hint=_LOGIN)
    if status == HTTPStatus.FORBIDDEN:
        return HubError(f"this token may not write to {repo}", hint="take one that may, or push elsewhere")
    if status in (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED):
        return HubError(
            f"{repo} changed in the meantime: nothing was committed", hint="look at it, and try again"
        )
    return HubError(f"the hub answered {status}: nothing was committed to {repo}", hint="try again later")
