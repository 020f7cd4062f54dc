"""A container registry by the OCI distribution API: blobs and manifests go up; credentials are those of docker.

Plain requests with httpx2, which every install has and which honours authorities and proxies as the other clients here
do. The package `oras` would bring requests and jsonschema, reads neither of our variables, and waits for minutes.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2

from lorapar.errors import BadInputError, LoraparError, UnreachableError
from lorapar.network import heed_proxies, network_cause, proxy_refusal, trust_authorities
from lorapar.redaction import remember_secret

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
TIMEOUT_SECONDS = 60.0
_HOST = re.compile(r"(?=.{1,253}$)([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"


@dataclass(frozen=True)
class OciName:
    """A repository of a registry, with a tag where one was given."""

    host: str
    repository: str
    tag: str | None
    plain_http: bool

    @property
    def address(self) -> str:
        """Of the registry's API."""
        host = "registry-1.docker.io" if self.host in _DOCKER_HUB else self.host
        return f"{'http' if self.plain_http else 'https'}://{host}"

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" + (f":{self.tag}" if self.tag else "")


def parse_oci_name(text: str) -> OciName:
    """The parts of `HOST[:PORT]/REPOSITORY[:TAG]`, with `oci://`, `https://` or `http://` before it or nothing.

    TLS is spoken but with `http://` and, as docker does, with this machine. Raises BadInputError for what is no name.
    """
    scheme, _, rest = text.rpartition("://")
    host, _, path = rest.partition("/")
    repository, _, tag = path.partition(":")
    known = scheme in ("", "oci", "https", "http") and ("://" in text) == bool(scheme)
    if not (known and _HOST.fullmatch(host) and _REPOSITORY.fullmatch(repository) and len(repository) < 256):
        raise BadInputError(
            f"--oci {_shown(text)}: not the name of a repository; they are written HOST[:PORT]/REPOSITORY[:TAG], the "
            "repository in lower-case letters, digits and . _ - /"
        )
    if ":" in path and not _TAG.fullmatch(tag):
        raise BadInputError(f"--oci {_shown(text)}: not a tag; up to 128 letters, digits and . _ - make one")
    local = (urlsplit(f"//{host}").hostname or "") in _LOOPBACK
    return OciName(host, repository, tag or None, scheme == "http" or (local and scheme != "https"))


def _shown(text: str) -> str:
    """Without a user and password, which do not belong there."""
    return repr(re.sub(r"//[^/@]*@", "//***@", text)[:200])


class OciClient:
    """One repository of one registry.

    Every method raises UnreachableError where the registry is silent or refuses, BadInputError where it says that what
    it was sent is wrong.
    """

    def __init__(self, name: OciName) -> None:
        self.name = name
        self._user = _credentials(name.host)
        self._authorization: str | None = None
        self._scope = f"repository:{name.repository}:pull,push"
        trust_authorities()
        heed_proxies(name.address)
        self._http = httpx2.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False)
        self._root = f"{name.address}/v2/{name.repository}"

    def __enter__(self) -> OciClient:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def find_manifest(self, reference: str) -> bytes | None:
        """The manifest that a tag or digest names; None where there is none."""
        response = self._send("GET", f"{self._root}/manifests/{reference}", headers={"Accept": MANIFEST_TYPE})
        if response.status_code == httpx2.codes.NOT_FOUND:
            return None
        return bytes(self._accepted(response).content)

    def has_blob(self, digest: str, size: int) -> bool:
        """Whether a blob is there, in this size."""
        response = self._send("HEAD", f"{self._root}/blobs/{digest}")
        if response.status_code in (301, 302, 303, 307, 308):  # it is in the registry's own bucket
            return True
        if response.status_code == httpx2.codes.NOT_FOUND:
            return False
        return self._accepted(response).headers.get("Content-Length") in (None, str(size))

    def push_blob(self, digest: str, size: int, content: Callable[[], Iterable[bytes]]) -> None:
        """Upload a blob in one piece; the registry compares its digest. `content` is called once for each try."""
        begun = self._accepted(self._send("POST", f"{self._root}/blobs/uploads/"))
        location = urljoin(f"{self._root}/", begun.headers.get("Location", ""))
        if urlsplit(location).scheme not in ("http", "https"):
            raise UnreachableError(f"{self.name}: the registry names no place to upload to")
        place = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self._accepted(self._send("PUT", place, headers=headers, content=content))

    def push_manifest(self, reference: str, manifest: bytes) -> None:
        """Name what was pushed."""
        headers = {"Content-Type": MANIFEST_TYPE, "Content-Length": str(len(manifest))}
        place = f"{self._root}/manifests/{reference}"
        self._accepted(self._send("PUT", place, headers=headers, content=lambda: [manifest]))

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        content: Callable[[], Iterable[bytes]] | None = None,
    ) -> httpx2.Response:
        """A request, asked again with a token where the registry wants one."""
        response = self._sent(method, url, headers, content)
        if response.status_code != httpx2.codes.UNAUTHORIZED or not self._ours(url):
            return response
        self._authorization = self._authorized(response)
        return self._sent(method, url, headers, content)

    def _sent(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        content: Callable[[], Iterable[bytes]] | None,
    ) -> httpx2.Response:
        given = dict(headers or {})
        if self._authorization and self._ours(url):
            given["Authorization"] = self._authorization
        try:
            body = iter(content()) if content is not None else None
            return self._http.request(method, url, headers=given, content=body)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            cause = network_cause(error, self.name.address) or (
                f"the registry did not answer ({type(error).__name__}); check --oci and the network"
            )
            raise UnreachableError(f"{self.name}: {cause}") from None

    def _ours(self, url: str) -> bool:
        """Whether an address is the registry's: credentials go nowhere else."""
        return urlsplit(url)[:2] == urlsplit(self.name.address)[:2]

    def _authorized(self, response: httpx2.Response) -> str:
        """The header that a challenge asks for: the user and password themselves, or a token for them."""
        kind, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        challenge = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind.lower() == "basic":
            if self._user is None:
                raise self._refused(response)
            return _basic(*self._user)
        realm = challenge.get("realm", "")
        schemes = ("http", "https") if self.name.plain_http else ("https",)
        if kind.lower() != "bearer" or urlsplit(realm).scheme not in schemes:
            raise self._refused(response)
        return f"Bearer {self._token(realm, challenge.get('service', ''))}"

    def _token(self, realm: str, service: str) -> str:
        user, password = self._user or ("", "")
        wanted = {"service": service, "scope": self._scope}
        try:
            if user == "<token>":  # an identity token, as `docker login` to Azure and others keeps it
                form = {**wanted, "grant_type": "refresh_token", "refresh_token": password, "client_id": "lorapar"}
                response = self._http.post(realm, data=form)
            else:
                headers = {"Authorization": _basic(user, password)} if user else {}
                response = self._http.get(realm, params=wanted, headers=headers)
            values: Any = response.json() if response.is_success else {}
        except (httpx2.RequestError, httpx2.InvalidURL, ValueError) as error:
            cause = network_cause(error, realm) or f"its token service did not answer ({type(error).__name__})"
            raise UnreachableError(f"{self.name}: {cause}") from None
        token = values.get("token") or values.get("access_token") if isinstance(values, dict) else None
        if not isinstance(token, str) or not token.isprintable():
            raise self._refused(response)
        remember_secret(token)
        return token

    def _accepted(self, response: httpx2.Response) -> httpx2.Response:
        if not response.is_success:
            raise self._refused(response)
        return response

    def _refused(self, response: httpx2.Response) -> LoraparError:
        status = response.status_code
        if proxy := proxy_refusal(status, self.name.address):
            return UnreachableError(f"{self.name}: {proxy}")
        if status in (401, 403):
            how = "may not write there" if self._user else "docker's config.json has no credentials for it"
            login = f"`docker login {self.name.host}`"
            return UnreachableError(f"{self.name}: the registry refused ({status}): {how}; {login}")
        try:
            first = response.json()["errors"][0]
            message = f"{first.get('code')}: {first.get('message')}"
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            message = "it does not answer as a registry does"
        kind = BadInputError if status in (400, 413) else UnreachableError
        return kind(f"{self.name}: the registry answered {status}: {' '.join(message.split())[:200]}")


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _credentials(host: str) -> tuple[str, str] | None:
    """User and password that `docker login` keeps for a host; None where it keeps none."""
    file = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{file}: cannot be read as docker's configuration ({type(error).__name__})") from None
    keys = (_DOCKER_HUB_KEY, *_DOCKER_HUB) if host in _DOCKER_HUB else (host, f"https://{host}", f"http://{host}")
    found = _kept(config, keys, file)
    remember_secret(*(found or ()))
    return found


def _kept(config: Any, keys: Iterable[str], file: Path) -> tuple[str, str] | None:
    sections = config if isinstance(config, dict) else {}
    helpers, auths = sections.get("credHelpers") or {}, sections.get("auths") or {}
    for key in keys:
        helper = helpers.get(key) or sections.get("credsStore")
        if helper and (found := _asked_helper(str(helper), key)):
            return found
        entry = auths.get(key) or auths.get(f"{key}/")
        if isinstance(entry, dict) and (found := _entry(entry, key, file)):
            return found
    return None


def _entry(entry: Mapping[str, Any], key: str, file: Path) -> tuple[str, str] | None:
    if entry.get("identitytoken"):
        return "<token>", str(entry["identitytoken"])
    if entry.get("auth"):
        try:
            user, colon, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except ValueError:
            colon = ""
        if not colon:
            raise BadInputError(f"{file}: `auth` of {key} is no USER:PASSWORD in base64; log in again")
        return user, password
    if entry.get("username"):
        return str(entry["username"]), str(entry.get("password", ""))
    return None


def _asked_helper(helper: str, key: str) -> tuple[str, str] | None:
    """What a credential helper of docker says; None where it knows nothing of the host or is not there."""
    if not _HELPER.fullmatch(helper):
        raise BadInputError(f"docker's config.json names the credential helper {helper[:40]!r}: no program's name")
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"], input=key, capture_output=True, text=True, timeout=60, check=False
        )
        values = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return (str(values["Username"]), str(values["Secret"])) if values.get("Secret") else None
