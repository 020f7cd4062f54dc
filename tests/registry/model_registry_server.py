"""A Kubeflow Model Registry in this process, for what registering a version asks of it.

Every body is checked against the types of the API that the package `model-registry` carries (`mr_openapi`, generated
from the OpenAPI document), and every answer is made of them. Names are unique as they are there: of models, of the
versions of a model, of the artifacts of a version.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from mr_openapi.models import (
    Error,
    ModelArtifact,
    ModelArtifactList,
    ModelVersion,
    ModelVersionCreate,
    ModelVersionUpdate,
    RegisteredModel,
    RegisteredModelCreate,
    RegisteredModelList,
)

TOKEN = "model-registry-token-of-these-tests"


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


class ModelRegistryServer(ThreadingHTTPServer):
    """`with ModelRegistryServer() as server:`; `failing` maps a part of a request to a status it is answered with."""

    daemon_threads = True

    def __init__(self, version: str = "v1") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.root = f"/api/model_registry/{version}/"
        self.models: dict[str, RegisteredModel] = {}
        self.versions: dict[str, ModelVersion] = {}
        self.artifacts: dict[str, tuple[str, ModelArtifact]] = {}
        """With the id of the version each belongs to."""
        self.failing: dict[str, int] = {}
        self.raw: bytes | None = None
        self.requests: list[str] = []
        self.lock = threading.Lock()

    def __enter__(self) -> ModelRegistryServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def new_id(self) -> str:
        return str(1 + len(self.models) + len(self.versions) + len(self.artifacts))

    def writes(self) -> list[str]:
        """Requests, those that only ask aside."""
        return [line for line in self.requests if not line.startswith("GET")]


def checked(kind: Any, body: dict[str, Any]) -> Any:
    """The body as the API's type; fields that the type does not have are refused, as a strict server does."""
    known = {field.alias or name for name, field in kind.model_fields.items()}
    assert set(body) <= known, f"{kind.__name__} has no {set(body) - known}"
    return kind.from_dict(body)


class _Handler(BaseHTTPRequestHandler):
    server: ModelRegistryServer
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        address = urlsplit(self.path)
        self.server.requests.append(f"{self.command} {address.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refusal(401, "no such token")
            for part, status in self.server.failing.items():
                if part in self.server.requests[-1]:
                    raise Refusal(status, "planted")
            if not address.path.startswith(self.server.root):
                raise Refusal(404, "no such address")
            what = address.path.removeprefix(self.server.root)
            with self.server.lock:
                status, answer = self._route(what, dict(parse_qsl(address.query)), json.loads(body or b"null"))
        except Refusal as no:
            status, answer = no.status, Error(code=str(no.status), message=no.message)
        if self.server.raw is not None:
            status = 200
        data = self.server.raw or answer.to_json().encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, *arguments: object) -> None:
        pass

    def _route(self, what: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        below = re.fullmatch(r"model_versions/([1-9][0-9]{0,8})(/artifacts)?", what)
        if below and below[1] not in self.server.versions:
            raise Refusal(404, f"no model version {below[1]}")
        match self.command, what:
            case "GET", "registered_models":
                return 200, RegisteredModelList(items=[], nextPageToken="", pageSize=1, size=0)
            case "GET", "registered_model":
                return 200, self._one(m for m in self.server.models.values() if m.name == query["name"])
            case "POST", "registered_models":
                return 201, self._add(self.server.models, checked(RegisteredModelCreate, body), RegisteredModel)
            case "GET", "model_version":
                parent, name = query["parentResourceId"], query["name"]
                versions = self.server.versions.values()
                return 200, self._one(v for v in versions if (v.registered_model_id, v.name) == (parent, name))
            case "POST", "model_versions":
                made = checked(ModelVersionCreate, body)
                assert made.registered_model_id in self.server.models
                return 201, self._add(self.server.versions, made, ModelVersion)
        assert below, f"no such address: {what}"
        if self.command == "PATCH":
            change = checked(ModelVersionUpdate, body).to_dict()
            old = self.server.versions[below[1]].to_dict()
            return 200, self._keep(self.server.versions, ModelVersion.from_dict({**old, **change}))
        if self.command == "GET":
            items = [artifact for parent, artifact in self.server.artifacts.values() if parent == below[1]]
            return 200, ModelArtifactList(items=items, nextPageToken="", pageSize=100, size=len(items))
        made = checked(ModelArtifact, body)
        if any((parent, one.name) == (below[1], made.name) for parent, one in self.server.artifacts.values()):
            raise Refusal(409, f"{made.name} is there already")
        made.id = self.server.new_id()
        self.server.artifacts[made.id] = (below[1], made)
        return 201, made

    def _one(self, found: Any) -> Any:
        first = next(iter(found), None)
        if first is None:
            raise Refusal(404, "nothing found")
        return first

    def _add(self, kept: dict[str, Any], asked: Any, kind: Any) -> Any:
        made = kind.from_dict({**asked.to_dict(), "id": self.server.new_id()})
        same = [
            one
            for one in kept.values()
            if one.name == made.name
            and getattr(one, "registered_model_id", None) == getattr(made, "registered_model_id", None)
        ]
        if same:
            raise Refusal(409, f"{made.name} is there already")
        return self._keep(kept, made)

    def _keep(self, kept: dict[str, Any], made: Any) -> Any:
        kept[made.id] = made
        return made
