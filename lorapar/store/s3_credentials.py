"""Credentials that are looked up again where a server reports those in use as expired or unknown.

boto3 itself renews credentials that have an expiry time (roles, web identities, containers, processes that give one). A
mounted file that a sidecar replaces has none, and boto3 reads it once in a process. A wrong clock or an ended session
invalidates others before their time. On such an answer boto3's whole chain is asked again. If it finds other keys, the
request is signed and sent again.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from traceback import walk_tb
from typing import Any

from lorapar.redaction import remember_secret
from lorapar.store.s3_errors import meant

STALE = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"),
        *("SecurityTokenExpired", "TokenExpired", "Unauthorized"),
        *("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"),
        *("InvalidToken", "InvalidTokenId", "SignatureDoesNotMatch"),
    }
)
"""Error codes that new keys may cure."""
_HEAD_STATUSES = ("400", "401", "403")
"""What stands for a code in the answer to a HEAD request, which has no body."""
_RENEWALS = 2
"""How often to repeat a request with other keys."""
_GENERATION, _RENEWED = "lorapar_generation", "lorapar_renewals"


class RenewedCredentials:
    """Replaces, in a botocore session, its chain of providers and the credentials that the chain found."""

    def __init__(self, profile: str | None = None) -> None:
        self._profile = profile
        self._lock = threading.Lock()
        self._found: Any = None
        self._loaded = False
        self._generation = 0

    def load_credentials(self) -> Any:
        """The credentials that sign requests: this object, or None where the chain finds nothing."""
        with self._lock:
            if not self._loaded:
                self._found, self._loaded = self._look_up(), True
        return None if self._found is None else self

    def get_frozen_credentials(self) -> Any:
        """The keys in use now; botocore itself renews keys with an expiry time."""
        with _same_message():
            return self._found.get_frozen_credentials()

    def __getattr__(self, name: str) -> Any:
        """`method`, `access_key` and so on, as the credentials found have them."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._found, name)

    def watch(self, client: Any) -> None:
        """Let a client repeat its requests with new keys."""
        client.meta.events.register_first("before-sign.s3", self._note)
        client.meta.events.register_first("needs-retry.s3", self._again)

    def _note(self, request: Any, **_: Any) -> None:
        request.context[_GENERATION] = self._generation

    def _again(self, response: Any, operation: Any, request_dict: dict[str, Any], **_: Any) -> float | None:
        """0 (seconds to wait) where the request should be repeated, else None: then botocore decides."""
        if response is None or response[0].status_code < 400:
            return None
        error = response[1].get("Error", {})
        code = meant(str(error.get("Code", "")), str(error.get("Message", "")))
        context = request_dict["context"]
        if code not in STALE and not (operation.name.startswith("Head") and code in _HEAD_STATUSES):
            return None
        if context.get(_RENEWED, 0) >= _RENEWALS or not self._renewed(context.get(_GENERATION, 0)):
            return None
        context[_RENEWED] = context.get(_RENEWED, 0) + 1
        return 0.0

    def _renewed(self, used: int) -> bool:
        """Whether the keys now differ from those of generation `used`."""
        with self._lock:
            if self._generation != used:
                return True
            found = None
            with suppress(Exception):  # a file that is being written; report the server's refusal instead
                found = self._look_up()
            if found is None or _keys(found) == _keys(self._found):
                return False
            self._found = found
            self._generation += 1
            remember_secret(*_keys(found))
            return True

    def _look_up(self) -> Any:
        """A new session reads variables and files and asks roles again."""
        import botocore.session

        with _same_message():
            session = botocore.session.Session(profile=self._profile)
            return session.get_component("credential_provider").load_credentials()


@contextmanager
def _same_message() -> Iterator[None]:
    """Give a program that is missing or prints no JSON the same error as one that fails."""
    from botocore.exceptions import BotoCoreError, CredentialRetrievalError

    try:
        yield
    except BotoCoreError:
        raise
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else error
        files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
        provider = "custom-process" if subprocess.__file__ in files else "a file that variables or the profile name"
        raise CredentialRetrievalError(provider=provider, error_msg=message) from error
    except EOFError as error:
        message = "the profile asks for an MFA code, and nobody is there to give it; put keys of a session into a file"
        raise CredentialRetrievalError(provider="assume-role", error_msg=message) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        message = "what it printed is not the JSON that is asked for (Version, AccessKeyId, SecretAccessKey)"
        raise CredentialRetrievalError(provider="custom-process", error_msg=message) from error


def _keys(credentials: Any) -> tuple[str | None, ...]:
    frozen = credentials.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token
