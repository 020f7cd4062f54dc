"""The REST API of Kubeflow Model Registry, as far as registering a version needs it.

Plain requests with httpx2, which every install has (huggingface-hub brings it), and not the package `model-registry`
0.3.18: that one calls itself alpha, sets up logging for the whole process, patches asyncio, refuses https without a
token, cannot finish a registration that broke off half-way, and speaks one version of the API. Tests check every
request against that package's own types of the API.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorapar.errors import BadInputError, LoraparError, UnreachableError
from lorapar.network import heed_proxies, network_cause, proxy_refusal, trust_authorities
from lorapar.redaction import remember_secret

API_VERSIONS = ("v1", "v1alpha3")
"""Newest first; their paths and the fields used here are the same."""
TOKEN = "LORAPAR_MODEL_REGISTRY_TOKEN"  # noqa: S105
TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105
"""What Kubeflow's own clients read: the path of a mounted ServiceAccount token."""
TIMEOUT_SECONDS = 30.0

# An id goes into paths; this is what the API promises it to be.
Identity = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]


class Resource(BaseModel):
    """A registered model or one of its versions, as answered."""

    model_config = ConfigDict(frozen=True)

    id: Identity
    name: str
    given_properties: dict[str, dict[str, Any]] | None = Field(None, alias="customProperties")

    @property
    def custom_properties(self) -> dict[str, dict[str, Any]]:
        """By name, each with its type; empty where it has none."""
        return self.given_properties or {}

    def text(self, key: str) -> str | None:
        """A custom property that is a text; None where there is none."""
        value = self.custom_properties.get(key, {}).get("string_value")
        return value if isinstance(value, str) else None


class Artifact(BaseModel):
    """Where the files of a version are, as answered."""

    model_config = ConfigDict(frozen=True)

    id: Identity
    uri: str | None = None
    artifact_type: str = Field(alias="artifactType")


class _Artifacts(BaseModel):
    items: list[Artifact] = []


Answer = TypeVar("Answer", bound=BaseModel)


class ModelRegistryClient:
    """Requests to one Model Registry; `with` closes its connections.

    Every method raises UnreachableError where the server is silent, refuses or does not answer as this API does, and
    BadInputError where it says that what it was sent is wrong.
    """

    def __init__(self, address: str) -> None:
        self.address = _checked(address)
        token = _token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        trust_authorities()
        heed_proxies(self.address)
        self._http = httpx2.Client(headers=headers, timeout=TIMEOUT_SECONDS)
        self._root: str | None = None

    def __enter__(self) -> ModelRegistryClient:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def find(self, what: str, **by: str) -> Resource | None:
        """The one `registered_model` or `model_version` with these properties; None where there is none."""
        response = self._request("GET", what, params=by)
        return None if response.status_code == httpx2.codes.NOT_FOUND else self._parsed(response, Resource)

    def find_or_create(self, what: str, body: Mapping[str, Any], **by: str) -> tuple[Resource, bool]:
        """The resource with these properties, made where there is none; and whether it was there.

        Of several that make it at once, one does, and the others find it.
        """
        found = self.find(what, **by)
        if found is not None:
            return found, True
        response = self._request("POST", f"{what}s", json=body)
        if response.status_code == httpx2.codes.CONFLICT and (found := self.find(what, **by)) is not None:
            return found, True
        return self._parsed(response, Resource), False

    def update_version(self, version: Resource, body: Mapping[str, Any]) -> None:
        """Change a model version."""
        self._parsed(self._request("PATCH", f"model_versions/{version.id}", json=body), Resource)

    def add_artifact(self, version: Resource, body: Mapping[str, Any]) -> None:
        """Say where the files of a model version are, unless an artifact of it says so already."""
        if self._has_artifact(version, body["uri"]):
            return
        response = self._request("POST", f"model_versions/{version.id}/artifacts", json=body)
        if response.status_code == httpx2.codes.CONFLICT and self._has_artifact(version, body["uri"]):
            return
        self._parsed(response, Artifact)

    def _has_artifact(self, version: Resource, uri: str) -> bool:
        response = self._request("GET", f"model_versions/{version.id}/artifacts", params={"pageSize": "100"})
        return any(artifact.uri == uri for artifact in self._parsed(response, _Artifacts).items)

    def _request(self, method: str, path: str, **more: Any) -> httpx2.Response:
        return self._send(method, f"{self._found_root()}/{path}", **more)

    def _found_root(self) -> str:
        """Where the API is: the newest version that the server has. Asked with a list, whose 404 means only that."""
        if self._root is None:
            for version in API_VERSIONS:
                root = f"{self.address}/api/model_registry/{version}"
                response = self._send("GET", f"{root}/registered_models", params={"pageSize": "1"})
                if response.status_code != httpx2.codes.NOT_FOUND:
                    self._parsed(response, _Anything)
                    self._root = root
                    break
            else:
                raise BadInputError(
                    f"--registry-url {self.address}: no Kubeflow Model Registry is there (404 for its versions "
                    f"{' and '.join(API_VERSIONS)})"
                )
        return self._root

    def _send(self, method: str, url: str, **more: Any) -> httpx2.Response:
        try:
            return self._http.request(method, url, **more)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            cause = network_cause(error, self.address) or (
                f"Kubeflow Model Registry did not answer ({type(error).__name__}); check --registry-url and the network"
            )
            raise UnreachableError(f"{self.address}: {cause}") from None

    def _parsed(self, response: httpx2.Response, kind: type[Answer]) -> Answer:
        if not response.is_success:
            raise self._refused(response)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "its body"
            raise UnreachableError(
                f"{self.address}: does not answer as Kubeflow Model Registry does ({where}: {first['msg']}); check "
                "--registry-url"
            ) from None

    def _refused(self, response: httpx2.Response) -> LoraparError:
        status = response.status_code
        if proxy := proxy_refusal(status, self.address):
            return UnreachableError(f"{self.address}: {proxy}")
        if status in (401, 403):
            how = f"set {TOKEN}, or {TOKEN_FILE} to a file with a token, that may write to it"
            return UnreachableError(f"{self.address}: Kubeflow Model Registry refused ({status}); {how}")
        try:
            message = str(response.json()["message"])
        except (ValueError, KeyError, TypeError):
            message = response.text or "no reason given"
        kind = BadInputError if status in (400, 409, 422) else UnreachableError
        message = " ".join(message.split())[:200]
        return kind(f"{self.address}: Kubeflow Model Registry answered {status}: {message}")


class _Anything(BaseModel):
    pass


def _checked(address: str) -> str:
    try:
        parts = urlsplit(address)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or "@" in parts.netloc or parts.query or parts.fragment:
        raise BadInputError(
            "--registry-url: not the address of a server; give http://HOST:PORT or https://HOST, without user, "
            "password or query"
        )
    return address.rstrip("/")


def _token() -> str | None:
    """The token of the environment; raises BadInputError for a file that cannot be read."""
    token = os.environ.get(TOKEN)
    file = os.environ.get(TOKEN_FILE)
    if not token and file:
        try:
            token = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"{TOKEN_FILE}: {file} cannot be read ({type(error).__name__})") from None
    token = (token or "").strip()
    remember_secret(token)
    if not token.isascii() or not token.isprintable():
        raise BadInputError(f"{TOKEN} or the file of {TOKEN_FILE}: not a token, it has characters that none has")
    return token or None
