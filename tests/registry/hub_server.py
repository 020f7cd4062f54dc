"""A hub in this process that takes uploads: what its client (huggingface_hub 2.4) asks for, answered as the hub does.

Repositories with branches and commits, `preupload`, LFS batches, uploads to addresses that need no token, `verify`,
commits as lines of JSON, and the listing of a tree. It checks what it is sent: tokens, lengths, sha256 of large files.
The chunked protocol "xet" is not spoken; clients are told to leave it by HF_HUB_DISABLE_XET.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hub-token-of-these-tests"
OWNER = "someone"


@dataclass
class Repository:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    """Commit of each branch."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """All files of each commit."""
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        oid = hashlib.sha1(f"{branch} {len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.branches.get(revision, revision))


class Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class HubServer(ThreadingHTTPServer):
    """`with HubServer() as hub:`; `failing` maps a part of a path to the status it is answered with."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.ignored: set[str] = set()
        self.failing: dict[str, int] = {}
        self.requests: list[str] = []

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def writes(self) -> list[str]:
        """Requests, those that only ask aside."""
        return [line for line in self.requests if not line.startswith("GET")]


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as a tree lists it."""
    found = {"type": "file", "path": path, "size": len(data), "oid": blob_id(data)}
    if is_large(path):
        oid = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()
        found |= {"oid": blob_id(pointer), "lfs": {"oid": oid, "size": len(data), "pointerSize": len(pointer)}}
    return found


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise AssertionError("the hub's storage wants a Content-Length")
        try:
            for part, status in self.server.failing.items():
                if part in path:
                    raise Refusal(status, message="planted")
            status, answer = 200, self._route(path, body)
        except Refusal as no:
            status, answer = no.status, {"error": no.message}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status >= 400 and answer["error"]:
            self.send_header("X-Error-Message", answer["error"])
        if status == 404:
            self.send_header("X-Error-Code", "RevisionNotFound" if "revision" in str(answer) else "RepoNotFound")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *arguments: object) -> None:
        pass

    def _route(self, path: str, body: bytes) -> Any:
        if stored := re.fullmatch(r"/storage/([0-9a-f]{64})", path):
            return self._store(stored[1], body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, message="Invalid username or password.")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}
        if batch := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self._batch(self._repository(batch[1]), json.loads(body))
        if path == "/verify":
            asked = json.loads(body)
            assert len(self.server.large[asked["oid"]]) == asked["size"]
            return {}
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/([\w-]+)/(.+))?", path)
        if found is None or found[2] == "xet-write-token":
            raise Refusal(404, message="no such address")
        repository, (name, what, rest) = self._repository(found[1]), found.groups()
        if what is None:
            return {"id": name, "private": repository.private, "sha": repository.branches["main"], "siblings": []}
        action = {"tree": self._tree, "branch": self._branch, "preupload": self._preupload, "commit": self._commit}
        return action[what](repository, rest, body)

    def _repository(self, name: str) -> Repository:
        if name not in self.server.repositories:
            raise Refusal(404, message="Repository not found")
        return self.server.repositories[name]

    def _create(self, asked: dict[str, Any]) -> Any:
        if asked["organization"] != OWNER:
            raise Refusal(403, message=f"You don't have the rights to create a model under {asked['organization']}")
        name = f"{OWNER}/{asked['name']}"
        if name in self.server.repositories:
            raise Refusal(409, message="You already created this model repo")
        repository = self.server.repositories[name] = Repository(asked.get("visibility") == "private")
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return {"url": f"{self.server.address}/{name}", "name": name, "id": name}

    def _tree(self, repository: Repository, revision: str, body: bytes) -> Any:
        files = repository.files(revision)
        if files is None:
            raise Refusal(404, message=f"Invalid revision {revision}")
        folders = sorted({path.rpartition("/")[0] for path in files} - {""})
        listed = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]
        return listed + [entry(path, data) for path, data in sorted(files.items())]

    def _branch(self, repository: Repository, branch: str, body: bytes) -> Any:
        if branch in repository.branches:
            raise Refusal(409, message="Reference already exists")
        repository.branches[branch] = repository.branches[json.loads(body).get("startingPoint", "main")]
        return {}

    def _preupload(self, repository: Repository, branch: str, body: bytes) -> Any:
        there = repository.commits[repository.branches[branch]]
        answers = []
        for asked in json.loads(body)["files"]:
            path = asked["path"]
            known = entry(path, there[path]) if path in there else {}
            assert len(base64.b64decode(asked["sample"])) == min(512, asked["size"])
            answers.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if is_large(path) else "regular",
                    "shouldIgnore": path in self.server.ignored,
                    "oid": known["lfs"]["oid"] if "lfs" in known else known.get("oid"),
                }
            )
        return {"files": answers}

    def _batch(self, repository: Repository, asked: dict[str, Any]) -> Any:
        assert (asked["operation"], asked["hash_algo"]) == ("upload", "sha256")
        assert "basic" in asked["transfers"]
        objects = []
        for one in asked["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.server.large:
                address = self.server.address
                upload, verify = {"href": f"{address}/storage/{one['oid']}"}, {"href": f"{address}/verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def _store(self, oid: str, body: bytes) -> Any:
        assert "Authorization" not in self.headers, "the token was shown to the storage behind the hub"
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, message="content does not match its sha256")
        self.server.large[oid] = body
        return {}

    def _commit(self, repository: Repository, branch: str, body: bytes) -> Any:
        assert self.headers["Content-Type"] == "application/x-ndjson"
        files = dict(repository.commits[repository.branches[branch]])
        header, *operations = [json.loads(line) for line in body.splitlines()]
        assert header["key"] == "header"
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                assert value["encoding"] == "base64"
                assert not is_large(value["path"])
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert (operation["key"], value["algo"]) == ("lfsFile", "sha256")
                files[value["path"]] = self.server.large[value["oid"]]
                assert value["size"] == len(files[value["path"]])
        oid = repository.commit(branch, files, header["value"]["summary"])
        name = next(name for name, one in self.server.repositories.items() if one is repository)
        return {"success": True, "commitUrl": f"{self.server.address}/{name}/commit/{oid}", "commitOid": oid}
