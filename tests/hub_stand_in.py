"""A loopback stand-in for the hub: just what loading a dataset or a model asks of it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubStandIn(ThreadingHTTPServer):
    """Serves one repository from memory, and remembers what was asked; ``kind`` is "dataset" or "model"."""

    daemon_threads = True

    def __init__(self, repository: str, files: Mapping[str, bytes], kind: str = "dataset") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository = repository
        self.files = dict(files)
        self.requests: list[str] = []
        self.api = f"/api/{kind}s/{repository}"
        self.page = f"/datasets/{repository}" if kind == "dataset" else f"/{repository}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def hub_stand_in(repository: str, files: Mapping[str, bytes], kind: str = "dataset") -> Iterator[HubStandIn]:
    server = HubStandIn(repository, files, kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubStandIn

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        api, page = self.server.api, self.server.page
        if path.startswith(api):
            self._api(path.removeprefix(api).strip("/").split("/"), body)
        elif path.startswith(f"{page}/resolve/"):
            self._file("/".join(path.removeprefix(f"{page}/resolve/").split("/")[1:]))
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _api(self, parts: list[str], body: bytes) -> None:
        if parts[0] in ("", "revision"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self._json({"id": self.server.repository, "sha": COMMIT, "tags": [], "siblings": siblings})
        elif parts[0] == "tree":
            folder = "".join(f"{part}/" for part in parts[2:])
            below = [name.removeprefix(folder) for name in self.server.files if name.startswith(folder)]
            folders = sorted({name.split("/")[0] for name in below if "/" in name})
            entries: list[dict[str, object]] = [
                {"type": "directory", "path": folder + name, "size": 0, "oid": COMMIT} for name in folders
            ]
            self._json(entries + [self._entry(folder + name) for name in below if "/" not in name])
        elif parts[0] == "paths-info":
            self._json([self._entry(name) for name in json.loads(body)["paths"] if name in self.server.files])
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _entry(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _file(self, name: str) -> None:
        content = self.server.files.get(name)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        self._send(200, content, headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
