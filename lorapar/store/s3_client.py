"""The boto3 client of a bucket. boto3's own chain finds endpoint, region, certificates and credentials.

None of these is a setting of lorapar; docs/storage.md lists the variables. What a bucket requires of every request is a
setting (`lorapar.store.s3_headers`).
"""

from __future__ import annotations

import gc
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lorapar.errors import BadInputError, UnreachableError
from lorapar.network import heed_proxies, trust_authorities
from lorapar.redaction import redact, remember_secret
from lorapar.store.s3_credentials import RenewedCredentials
from lorapar.store.s3_errors import UNSIGNED, credentials_cause, elsewhere
from lorapar.store.s3_headers import add_headers

CONCURRENT_REQUESTS = 10
"""Requests of one store at a time, boto3's own default."""
_ATTEMPTS = 8
"""With boto3's growing pauses about half a minute: enough for a server to restart."""
_FOUND_HERE = ("env", "shared-credentials-file", "config-file")
"""Ways of finding credentials without the network."""
_REGIONS = ("AWS_DEFAULT_REGION", "AWS_REGION")
"""boto3 reads only the first; every other AWS client, and the pods of EKS, also use the second."""
_NO_REGION = "us-east-1"
_REDIRECTS = (301, 302, 303, 307, 308)
_REFUSALS = (400, 401, 403)
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_FIRST_ATTEMPTS = 2
_FIRST_SECONDS = 5


_lock = threading.Lock()
_kept: dict[frozenset[tuple[str, str]], Connection] = {}


def connection(where: str) -> Connection:
    """The connection that all stores of this process share: boto3 takes a seventh of a second to make a client.

    A new one after a variable of the environment has changed, because boto3 reads its settings there. Raises like
    `Connection`, naming the address `where`.
    """
    variables = frozenset(os.environ.items())
    with _lock:
        if variables not in _kept:
            _kept.clear()
            with _no_search_for_garbage():
                _kept[variables] = Connection(where)
        return _kept[variables]


class Connection:
    """The client for all calls of its stores, and the session that makes further clients.

    Raises BadInputError or UnreachableError where the settings cannot work; contacts nothing yet.
    """

    def __init__(self, where: str) -> None:
        import botocore.session

        _check_keys()
        with _settings_errors(where):
            core = botocore.session.get_session()
            core.get_component("data_loader").list_available_services = lambda _: _AnyName()
            self._credentials = RenewedCredentials(core.get_config_variable("profile"))
            core.register_component("credential_provider", self._credentials)
            core.set_config_variable("region", _region(core, where))
            self._session = core
            authorities = trust_authorities()
            # boto3's own settings, AWS_CA_BUNDLE or a profile, win.
            self._verify = authorities if core.get_config_variable("ca_bundle") is None else None
            found = self._session.get_credentials()
            self._signed = found is not None
            self.client: Any = self._make(**_options(core))
            if heed_proxies(self.endpoint, socks=None, ascii_only=True):  # a client keeps the proxies it was made with
                self.client.close()
                self.client = self._make(**_options(core))
        if found is not None and found.method in _FOUND_HERE:
            self._remember_credentials()

    @property
    def endpoint(self) -> str:
        """The server's address."""
        return str(self.client.meta.endpoint_url)

    def first_contact(self) -> None:
        """Ask once with few retries, so that a wrong endpoint shows in seconds.

        Any answer of the server is fine here; the next call gets the same answer and explains it. Raises boto3's error
        where there is none.
        """
        from botocore.exceptions import ClientError

        try:
            with self.impatient_client() as client:
                client.list_buckets(MaxBuckets=1)  # names no bucket, so that none can redirect it
        except ClientError as error:
            answer = error.response.get("ResponseMetadata", {})
            if answer.get("HTTPStatusCode", 0) in _REDIRECTS:
                location = str(answer.get("HTTPHeaders", {}).get("location", ""))
                raise UnreachableError(redact(elsewhere(self.endpoint, location))) from None
        self._remember_credentials()

    @contextmanager
    def impatient_client(self) -> Iterator[Any]:
        """A client that tries twice."""
        retries = {"mode": "standard", "total_max_attempts": _FIRST_ATTEMPTS}
        client = self._make(retries=retries, connect_timeout=_FIRST_SECONDS)
        try:
            yield client
        finally:
            client.close()

    def _make(self, **options: Any) -> Any:
        from botocore.config import Config

        if not self._signed:  # a public bucket asks for no keys
            from botocore import UNSIGNED as NO_SIGNATURE

            options["signature_version"] = NO_SIGNATURE
        client = self._session.create_client("s3", config=Config(**options), verify=self._verify)
        self._credentials.watch(client)
        add_headers(client)
        if not self._signed:
            client.meta.events.register_first("after-call.s3", _note_unsigned)
        return client

    def _remember_credentials(self) -> None:
        """Let redaction know keys that are not in the environment, such as those of a mounted file or a role."""
        found = self._session.get_credentials()
        if found is not None:
            frozen = found.get_frozen_credentials()
            remember_secret(frozen.access_key, frozen.secret_key, frozen.token)


def _note_unsigned(parsed: dict[str, Any], **_: Any) -> None:
    """Note in a refusal that the request had no signature: any other cause that the server names follows from that."""
    if parsed.get("ResponseMetadata", {}).get("HTTPStatusCode") in _REFUSALS:
        parsed.setdefault("Error", {})[UNSIGNED] = True


class _AnyName(list[str]):
    """Stands for botocore's list of services. botocore would search the folders of all 400 for every file of one."""

    def __contains__(self, name: object) -> bool:
        """Accept every name; botocore reports a missing file itself."""
        return True


@contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """Switch garbage collection off while boto3 imports and builds objects that stay: it takes a tenth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def _settings_errors(where: str) -> Iterator[None]:
    """Report a missing profile or an endpoint that is no address, before contacting anything."""
    from botocore.exceptions import BotoCoreError, InvalidRetryModeError

    try:
        yield
    except InvalidRetryModeError as error:
        raise BadInputError(f"{where}: {error}; fix AWS_RETRY_MODE, or retry_mode of the profile") from None
    except BotoCoreError as error:
        raise UnreachableError(redact(f"{where}: {credentials_cause(error)}")) from None
    except ValueError as error:
        if "endpoint" not in str(error).lower():  # not a number; botocore does not say which
            asked = "fix AWS_MAX_ATTEMPTS, AWS_METADATA_SERVICE_TIMEOUT or the profile"
            raise BadInputError(redact(f"{where}: {error}; {asked}")) from None
        raise BadInputError(
            redact(f"{where}: {error}; check AWS_ENDPOINT_URL, which begins with https:// or http://")
        ) from None


def _check_keys() -> None:
    """Refuse keys with a line break or blank at an end: no header takes them, or their signature is wrong."""
    for name in _KEYS:
        value = os.environ.get(name, "")
        if value != value.strip():
            raise BadInputError(
                f"{name} begins or ends with a blank or line break, as `echo` leaves one in a Secret; make it again "
                "without (`printf %s`, or kubectl create secret --from-literal)"
            )


def _region(core: Any, where: str) -> str:
    """The region from the variables or the profile; an empty variable counts as unset."""
    named = [(name, os.environ[name]) for name in _REGIONS if os.environ.get(name)]
    configured = core.get_scoped_config().get("region")
    name, region = (*named, ("region of the profile", configured or _NO_REGION))[0]
    if not re.fullmatch(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)", region):
        raise BadInputError(f"{where}: '{region}' is not the name of a region; fix {name} (such as eu-central-1)")
    return region


def _options(core: Any) -> dict[str, Any]:
    """Options that differ from boto3's defaults; the user's variables and profile win."""
    options: dict[str, Any] = {
        "max_pool_connections": CONCURRENT_REQUESTS + 2,
        "tcp_keepalive": True,
        "user_agent_extra": "lorapar",
    }
    if core.get_config_variable("max_attempts") is None:
        mode = core.get_config_variable("retry_mode") or "standard"
        options["retries"] = {"mode": "standard" if mode == "legacy" else mode, "total_max_attempts": _ATTEMPTS}
    return options
