"""Signatures of versions, Ed25519: write access to the store is not enough to make a server load a version.

Signed is the statement that a name and a number have a content digest, so a signature does not serve for another
version or another name. Keys are PEM files, as `openssl genpkey -algorithm ed25519` makes them. They come from
the environment: LORAPAR_SIGNING_KEY names the private key that publishing signs with, LORAPAR_TRUSTED_KEYS a file of
public keys of which one must have signed whatever is pulled.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ConfigDict

from lorapar.errors import BadInputError, IntegrityError
from lorapar.extras import pip_install
from lorapar.records import json_text
from lorapar.registry.layout import checked, signatures_prefix
from lorapar.registry.versions import Version
from lorapar.store import ObjectStore

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNING_KEY = "LORAPAR_SIGNING_KEY"
TRUSTED_KEYS = "LORAPAR_TRUSTED_KEYS"
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class Signature(BaseModel):
    """signatures/<version>/<key>.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    schema_version: int = 1
    algorithm: str = "ed25519"
    key: str
    """First half of the sha256 of the public key, in hex."""
    signature: str
    """Base64."""


def sign_version(store: ObjectStore, version: Version, key_file: Path) -> str:
    """Put a signature beside a version; returns the name of the key. Raises BadInputError for a file that is no key."""
    key = _private_key(key_file)
    name = _name_of(key.public_key())
    made = Signature(key=name, signature=base64.b64encode(key.sign(_statement(version))).decode())
    data = json_text(made.model_dump(mode="json")).encode()
    store.write_if_absent(f"{signatures_prefix(version.name, version.number)}{name}.json", data)
    return name


def sign_if_asked(store: ObjectStore, version: Version) -> None:
    """Sign with the key that the environment names, if it does."""
    if os.environ.get(SIGNING_KEY):
        sign_version(store, version, Path(os.environ[SIGNING_KEY]))


def check_keys() -> None:
    """Raise BadInputError where the environment names a key that publishing or pulling could not use later."""
    if os.environ.get(SIGNING_KEY):
        _private_key(Path(os.environ[SIGNING_KEY]))
    if os.environ.get(TRUSTED_KEYS):
        _trusted(Path(os.environ[TRUSTED_KEYS]))


def require_trusted(store: ObjectStore, version: Version) -> None:
    """Raise IntegrityError unless a key that the environment trusts has signed the version; no trust set, no check."""
    if os.environ.get(TRUSTED_KEYS):
        trusted = _trusted(Path(os.environ[TRUSTED_KEYS]))
        found = signatures(store, version)
        if not any(one.key in trusted and _holds(trusted[one.key], version, one) for one in found):
            others = f"it has {len(found)} other signature{'s' if len(found) > 1 else ''}" if found else "it has none"
            raise IntegrityError(
                f"{store.address}: {version} is not signed by a key of {os.environ[TRUSTED_KEYS]} ({others}), so it is "
                f"not used; sign it with `lorapar adapters sign {version} --key FILE`, or trust its key"
            )


def signatures(store: ObjectStore, version: Version) -> list[Signature]:
    """Every signature beside a version, right or wrong."""
    keys = [entry.key for entry in store.list(signatures_prefix(version.name, version.number))]
    remedy = f"delete it, and sign again: `lorapar adapters sign {version} --key FILE`"
    return [checked(Signature, store.read(key), f"{store.address}/{key}", "a signature", remedy) for key in keys]


def _holds(key: Ed25519PublicKey, version: Version, found: Signature) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(base64.b64decode(found.signature), _statement(version))
    except (InvalidSignature, ValueError):
        return False
    return True


def _statement(version: Version) -> bytes:
    return f"lorapar adapter version\n{version.name}\n{version.number}\n{version.digest}\n".encode()


def _private_key(file: Path) -> Ed25519PrivateKey:
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise BadInputError(f"{file}: the signing key cannot be read ({error.strerror})") from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise BadInputError(
            f"{file}: no unencrypted Ed25519 key in PEM; make one with `openssl genpkey -algorithm ed25519`"
        )
    return cast("Ed25519PrivateKey", key)


def _trusted(file: Path) -> dict[str, Ed25519PublicKey]:
    serialization, ed25519 = _library()
    try:
        keys = [serialization.load_pem_public_key(text) for text in _PUBLIC.findall(file.read_bytes())]
    except OSError as error:
        raise BadInputError(f"{TRUSTED_KEYS}: {file} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BadInputError(f"{TRUSTED_KEYS}: {file}: not a public key in PEM ({error})") from None
    if not keys or not all(isinstance(key, ed25519.Ed25519PublicKey) for key in keys):
        raise BadInputError(f"{TRUSTED_KEYS}: {file} must hold Ed25519 public keys in PEM, and nothing else")
    return {_name_of(key): key for key in keys}


def _name_of(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError:
        raise BadInputError(
            f"signatures need the package cryptography, which is not installed here: {pip_install('sign')}"
        ) from None
    return serialization, ed25519
