"""A loopback stand-in for the hub: just what loading a dataset or a model asks of it, and uploading one."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECOND_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
TOKEN = "hf_stand_in"
_LARGE = (".safetensors", ".onnx")


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
        self.token = TOKEN
        self.exists = True
        self.private = False
        self.writable = True
        self.commits: list[dict[str, object]] = []
        self.uploads: dict[str, bytes] = {}

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

    def do_PUT(self) -> None:
        self._answer()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while length := int(self.rfile.readline(), 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        api, page = self.server.api, self.server.page
        if self.command == "PUT" or path.startswith(("/api/whoami", "/api/repos", "/api/validate", "/lfs")):
            self._upload(path, body)
        elif path == f"{page}.git/info/lfs/objects/batch":
            self._batch(json.loads(body))
        elif path.startswith(f"{api}/preupload/"):
            self._preupload(json.loads(body))
        elif path.startswith(f"{api}/commit/"):
            self._commit(body)
        elif path.startswith(api) and not self.server.exists:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith(api):
            self._api(path.removeprefix(api).strip("/").split("/"), body)
        elif path.startswith(f"{page}/resolve/"):
            self._file("/".join(path.removeprefix(f"{page}/resolve/").split("/")[1:]))
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _api(self, parts: list[str], body: bytes) -> None:
        if parts[0] in ("", "revision"):
            siblings = [{"rfilename": name} for name in self.server.files]
            commit = SECOND_COMMIT if self.server.commits else COMMIT
            told = {"id": self.server.repository, "sha": commit, "private": self.server.private, "tags": []}
            self._json({**told, "siblings": siblings})
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

    def _upload(self, path: str, body: bytes) -> None:
        """Who is asking, a new repository, the check of a card, and the store of large files."""
        if path.startswith("/lfs/"):
            oid = path.rpartition("/")[2]
            if self.command == "PUT":
                self.server.uploads[oid] = body
            right = hashlib.sha256(self.server.uploads.get(oid, b"")).hexdigest() == oid
            self._send(200 if right else 400, b"{}", {})
        elif self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._send(401, b"{}", {})
        elif path == "/api/repos/create":
            given = json.loads(body)
            if not self.server.writable:
                self._send(403, b"{}", {})
                return
            self.server.exists = True
            self.server.private = given.get("visibility") == "private" or bool(given.get("private"))
            self._json({"url": f"{self.server.endpoint}/{self.server.repository}"})
        else:
            self._json({"name": "someone", "type": "user", "orgs": []})

    def _preupload(self, given: dict[str, list[dict[str, str]]]) -> None:
        modes = {
            entry["path"]: "lfs" if entry["path"].endswith(_LARGE) else "regular" for entry in given["files"]
        }
        answer = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
        self._json({"files": answer})

    def _batch(self, given: dict[str, list[dict[str, str]]]) -> None:
        at = f"{self.server.endpoint}/lfs"
        objects = [
            {
                "oid": entry["oid"],
                "size": entry["size"],
                "actions": {
                    "upload": {"href": f"{at}/store/{entry['oid']}"},
                    "verify": {"href": f"{at}/verify/{entry['oid']}"},
                },
            }
            for entry in given["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, body: bytes) -> None:
        """Apply all operations at once."""
        head, *operations = (json.loads(line) for line in body.splitlines())
        parent = head["value"].get("parentCommit")
        if not self.server.writable or parent not in (None, COMMIT):
            self._send(412 if self.server.writable else 403, b"{}", {})
            return
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "deletedFile":
                del self.server.files[value["path"]]
            elif operation["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.uploads[value["oid"]]
            else:
                self.server.files[value["path"]] = base64.b64decode(value["content"])
        self.server.commits.append(head["value"])
        page = f"{self.server.endpoint}/{self.server.repository}"
        self._json({"commitUrl": f"{page}/commit/{SECOND_COMMIT}", "commitOid": SECOND_COMMIT})

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
