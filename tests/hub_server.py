"""A small Hub on loopback: repositories, commits with large files, trees, files; tokens count.

Only what huggingface_hub asks for when a repository is made, written, listed and read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_good"
LARGE_BYTES = 4096
"""From this size on a file goes over apart from the commit."""
API = re.compile(r"/api/(model|dataset)s/([\w-]+/[\w-]+)(?:/(\w[\w-]*)/main)?(?:/(.*))?")
BATCH = re.compile(r"/(?:datasets/)?([\w-]+/[\w-]+)\.git/info/lfs/objects/batch")
FILE = re.compile(r"/(?:datasets/)?([\w-]+/[\w-]+)/resolve/main/(.+)")


@dataclass
class Hub:
    """What the server holds, and what it was asked for."""

    url: str = ""
    is_private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, list[str]]] = field(default_factory=list)
    """Of each commit the names of its files: those in it, and those that went before."""
    full_after: int = 1 << 30
    """Uploads of large files that succeed."""


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, value: object, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, each in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), each)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, words: str) -> None:
        self._answer({"error": words}, status, X_Error_Code=code, X_Error_Message=words)

    def _is_known(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._refuse(401, "", "Invalid credentials in Authorization header")
        return False

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        data = self._body()
        self.hub.full_after -= 1
        if self.hub.full_after < 0:
            self._refuse(403, "", "storage limit reached")
            return
        digest = hashlib.sha256(data).hexdigest()
        assert self.path == f"/upload/{digest}"
        self.hub.large[digest] = data
        self._answer(b"")

    def do_POST(self) -> None:
        body = self._body()
        if not self._is_known():
            return
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            head = json.loads(body)["content"].split("---\n")[1]
            assert isinstance(yaml.safe_load(head), dict)
            self._answer({"errors": [], "warnings": []})
        elif BATCH.fullmatch(path):
            self._answer({"objects": [self._room(each) for each in json.loads(body)["objects"]]})
        elif (found := API.fullmatch(path)) and found[2] not in self.hub.files:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif found and found[3] == "preupload":
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["size"] >= LARGE_BYTES else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            self._answer({"files": modes})
        elif found and found[3] == "commit":
            self._commit(found[2], [json.loads(line) for line in body.splitlines()])
        else:
            self._refuse(404, "EntryNotFound", f"no {path}")

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.hub.files:
            self._answer({"error": "You already created this repo", "url": name}, 409)
            return
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.is_private[name], self.hub.files[name] = bool(private), {}
        self._answer({"url": f"{self.hub.url}/{name}", "name": name})

    def _room(self, asked: dict[str, Any]) -> dict[str, Any]:
        known = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] in self.hub.large:
            return known
        href = f"{self.hub.url}/upload/{asked['oid']}"
        return {**known, "actions": {"upload": {"href": href}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        said: dict[str, list[str]] = {"file": [], "lfsFile": []}
        for line in lines[1:]:
            value = line["value"]
            said[line["key"]].append(value["path"])
            is_inside = line["key"] == "file"
            data = base64.b64decode(value["content"]) if is_inside else self.hub.large[value["oid"]]
            self.hub.files[name][value["path"]] = data
        self.hub.commits.append(said)
        url = f"{self.hub.url}/{name}/commit/{len(self.hub.commits)}"
        self._answer({"success": True, "commitUrl": url, "commitOid": "0" * 40})

    def do_GET(self) -> None:
        if not self._is_known():
            return
        path = unquote(urlsplit(self.path).path)
        if found := FILE.fullmatch(path):
            self._file(self.hub.files.get(found[1], {}).get(found[2]))
            return
        found = API.fullmatch(path)
        if found is None or found[2] not in self.hub.files:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif found[3] == "tree":
            self._tree(self.hub.files[found[2]], found[4] or "")
        else:
            private = self.hub.is_private[found[2]]
            self._answer({"id": found[2], "sha": "0" * 40, "private": private, "siblings": []})

    do_HEAD = do_GET  # noqa: N815 - the name that is looked for

    def _file(self, data: bytes | None) -> None:
        if data is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
        tag = hashlib.sha256(data).hexdigest()
        self._answer(part, 206 if asked else 200, ETag=f'"{tag}"', X_Repo_Commit="0" * 40)

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        """Answer with what lies directly in a folder, or with all below it."""
        start = f"{folder}/" if folder else ""
        below = sorted(name.removeprefix(start) for name in files if name.startswith(start))
        if folder and not below:
            self._refuse(404, "EntryNotFound", f"{folder} does not exist")
            return
        is_whole = "recursive=true" in self.path.lower()
        found: dict[str, dict[str, Any]] = {}
        for name in below:
            parts = name.split("/")
            for size in range(1, len(parts) if is_whole else min(2, len(parts))):
                inner = start + "/".join(parts[:size])
                found[inner] = {"type": "directory", "path": inner, "oid": "0" * 40}
            if is_whole or len(parts) == 1:
                size = len(files[start + name])
                found[start + name] = {"type": "file", "path": start + name, "size": size}
                found[start + name]["oid"] = "0" * 40
        self._answer(list(found.values()))


@contextmanager
def served() -> Iterator[Hub]:
    """Yield a hub while it is served at a free port of loopback."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
