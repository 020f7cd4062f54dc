"""Certificate authorities and proxies, the same for every client: what is trusted, and which one caused a failure.

`LORAPAR_CA_BUNDLE` names a PEM file, or a folder of them, with authorities that are trusted beside the public ones.
`SSL_CERT_FILE`, `SSL_CERT_DIR` and `REQUESTS_CA_BUNDLE`, which other programs read too, reach clients that know none of
them, so that one variable is enough. Proxies are those of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`,
which every client here honours, each form of the last one alike.
"""

from __future__ import annotations

import atexit
import base64
import fnmatch
import hashlib
import ipaddress
import os
import re
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from lorapar.errors import BadInputError, StorageError
from lorapar.places import cache_folder

OWN_VARIABLE = "LORAPAR_CA_BUNDLE"
SHARED_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""What the libraries below us read: httpx, Python and OpenSSL the first, requests the second."""
S3_VARIABLE = "AWS_CA_BUNDLE"
"""What boto3 reads, and nobody else; `SSL_CERT_FILE` alone does not reach it."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""A port-forward, say: no proxy leads there, though few programs know."""
_FOLDERS = "SSL_CERT_DIR"
"""Folders with a colon between them, which OpenSSL reads, and so Python, but neither requests nor boto3."""
_SYSTEM = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
"""Where Debian, Red Hat and SUSE keep what the system trusts."""
UNUSABLE_PROXY = "the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) cannot be used"
_UNREACHED = ("ConnectError", "ConnectTimeout", "NewConnectionError", "ConnectTimeoutError", "EndpointConnectionError")
"""Names of the HTTP libraries' own errors for a connection that never was."""


def trust_authorities() -> str | None:
    """Let the authorities that the environment names reach every client of this process and of those it starts.

    Returns the file with all that is trusted, for a client that is told by argument; None where nothing is named and
    each library's own default holds. Raises BadInputError for a file that cannot be read or holds no certificate.
    """
    named = {name: path for name in (OWN_VARIABLE, *SHARED_VARIABLES, S3_VARIABLE) if (path := os.environ.get(name))}
    for name, path in named.items():
        _check(name, path)
    own = named.get(OWN_VARIABLE)
    shared = [path for name in SHARED_VARIABLES if (path := named.get(name)) and path != own]
    asked = tuple(dict.fromkeys(path for path in (own, *shared, *_folders()) if path))
    for name, path in named.items():  # most clients take a file alone
        if Path(path).is_dir():
            os.environ[name] = _combined((path, *asked))
    if not asked:
        return None
    # Asked again, by another client: what was made for the first one is in the variables by then.
    whole = next((path for path in asked if _is_made(path)), None) or _combined(asked)
    for name in (*SHARED_VARIABLES, S3_VARIABLE):
        if (name not in named and name != S3_VARIABLE) or (own is not None and named.get(name) == own):
            os.environ[name] = whole
    return whole


def _folders() -> list[str]:
    """Folders of `SSL_CERT_DIR` beside the system's own, which are there or not: OpenSSL does not mind."""
    systems = {Path(path).parent for path in _SYSTEM}
    named = os.environ.get(_FOLDERS, "").split(os.pathsep)
    return [path for path in named if path and Path(path) not in systems and any(_certificates(path))]


def heed_proxies(address: str, *, socks: str | None = "socksio", ascii_only: bool = False) -> bool:
    """Let the variables of proxies mean the same to whichever client asks an address next.

    `ALL_PROXY` counts where the proxy of a scheme is not named, which urllib and boto3 do not know. The host is put
    into NO_PROXY where it is this machine, or where a network (`10.0.0.0/8`) or pattern (`*.internal`) there holds it:
    clusters write both, and httpx, urllib and boto3 each know other forms; the name itself is known to all. Returns
    whether something was changed: a client that was made before it has to be made again.

    `socks` is the module by which the client speaks SOCKS, None where it cannot; `ascii_only` says that it sends no
    other letters as user and password. Raises BadInputError for a proxy that is no address, or that the client cannot
    ask.
    """
    changed = _spread_all_proxy()
    changed = _heed_no_proxy(address) or changed
    proxy = _named_proxy(address, everything=socks is not None)
    if proxy and (why := _why_unusable(proxy, socks)):
        raise BadInputError(f"{address}: {UNUSABLE_PROXY}: {why}")
    if proxy and ascii_only and not unquote(proxy.rpartition("@")[0]).isascii():
        why = "user or password have letters beyond ASCII, which this client does not send; give them others"
        raise BadInputError(f"{address}: {UNUSABLE_PROXY}: {why}")
    return changed


def _spread_all_proxy() -> bool:
    known = getproxies()
    everything = known.get("all", "")
    if not everything or everything.startswith("socks"):  # which urllib and boto3 do not speak
        return False
    missing = [scheme for scheme in ("http", "https") if scheme not in known]
    for scheme in missing:
        os.environ[f"{scheme.upper()}_PROXY"] = everything
    return bool(missing)


def _heed_no_proxy(address: str) -> bool:
    parts = urlsplit(address)
    host, added = (parts.hostname or "").rstrip("."), False
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    here = host in _LOOPBACK and bool(getproxies())
    for name in ("no_proxy", "NO_PROXY"):
        given = os.environ.get(name, "")
        entries = given.lower().split(",")
        if not host or host in map(str.strip, entries):
            continue
        if here or any(_holds(one, host, port) for one in _single(entries)):
            os.environ[name] = f"{given},{host}".lstrip(",") + (f",[{host}]" if ":" in host else "")
            added = True
    return added


def _single(entries: list[str]) -> list[str]:
    """Some write blanks or semicolons between entries, which no program but curl takes apart."""
    return [part for entry in entries for part in re.split(r"[\s;]+", entry) if part]


def _holds(entry: str, host: str, port: int | None) -> bool:
    if entry.startswith("["):  # an IPv6 address in brackets, perhaps with a port
        inner, _, only = entry[1:].partition("]")
        entry = inner if only in ("", f":{port}") else ""
    if len(entry.split(":")) == 2 and "/" not in entry:  # with a port, as Go reads it
        entry, _, only = entry.partition(":")
        if only != str(port):
            return False
    if host == entry.lstrip(".") or (entry.startswith(".") and host.endswith(entry)):
        return True
    if "/" in entry or ":" in entry:  # a network, or an IPv6 address in another of its forms
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    return "*" in entry and entry != "*" and fnmatch.fnmatchcase(host, entry)


def network_cause(error: BaseException, address: str, variable: str = SHARED_VARIABLES[0]) -> str | None:
    """What in the network was in the way of `address`: its certificate or a proxy; None where it was neither.

    `error` is what any HTTP library raised; `variable` is the one that names authorities for that library.
    """
    chain = list(_chain(error))
    host = urlsplit(address).netloc.rpartition("@")[2] or address
    for one in chain:
        message = str(one).lower()
        if (
            isinstance(one, ssl.SSLCertVerificationError)
            or "certificate verify failed" in message
            or _of_other_name(one)
        ):
            return _certificate_cause(one, host, variable)
    if any("WRONG_VERSION_NUMBER" in str(one) for one in chain):
        return f"{host} does not speak TLS on this port; begin the address with http://, or give the port that does"
    return _proxy_cause(chain, address, host)


def proxy_refusal(status: int, address: str) -> str | None:
    """What a proxy's own answer means: 407 comes from a proxy and never from the server behind it."""
    proxy = proxy_for(address)
    if status != 407:
        return None
    if "@" in (_named_proxy(address) or ""):
        return (
            f"the proxy {proxy} refuses the user and password of {_proxy_variable(address)} (407); fix them, with "
            "@, :, / and # in them as %40, %3A, %2F and %23"
        )
    return (
        f"the proxy {proxy or 'in between'} asks for a user and password (407); give them in "
        f"{_proxy_variable(address)} as http://USER:PASSWORD@HOST:PORT"
    )


def proxy_for(address: str) -> str | None:
    """The proxy that the environment names for an address, without user and password; None where it names none."""
    proxy = _named_proxy(address)
    if proxy is None:
        return None
    scheme, _, rest = proxy.partition("://")
    # Of the whole text: a password with / or # in it would end what stands between // and / before its own end.
    return f"{scheme}://{rest.rpartition('@')[2]}"


def proxy_address(address: str) -> str | None:
    """As `proxy_for`, with user and password: for the client itself, never for a line or a log.

    Raises as `heed_proxies` does.
    """
    heed_proxies(address, socks=None)
    return _named_proxy(address, everything=False)


def proxy_login(address: str) -> str | None:
    """The header `Proxy-Authorization` for a client that makes none of user and password; None where there are none."""
    parts = urlsplit(_named_proxy(address, everything=False) or "")
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _named_proxy(address: str, *, everything: bool = True) -> str | None:
    """`everything`: whether an ALL_PROXY that speaks SOCKS counts; any other has been spread."""
    _heed_no_proxy(address)
    parts = urlsplit(address)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or (proxies.get("all") if everything else None)
    if not proxy or not parts.hostname or parts.hostname in _LOOPBACK or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _why_unusable(proxy: str, socks: str | None) -> str | None:
    """The reason, never a piece of the address: it may be one of the password."""
    try:
        parts = urlsplit(proxy)
        whole = bool(parts.hostname) and parts.port != 0 and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:  # a port that is none
        whole = False
    if not whole:
        return (
            "it is no address; write http://USER:PASSWORD@HOST:PORT, with @, :, / and # in user or password as %40, "
            "%3A, %2F and %23"
        )
    if parts.scheme not in ("http", "https") and not parts.scheme.startswith("socks"):
        return "it must begin with http://, https:// or socks5://"
    if parts.scheme.startswith("socks") and socks is None:
        return "this client does not speak SOCKS; name an http proxy, or put the host into NO_PROXY"
    if parts.scheme.startswith("socks") and not find_spec(socks or ""):
        package = {"socks": "PySocks"}.get(socks or "", socks)
        return f"SOCKS needs the package {package} (pip install {package}), or name an http proxy"
    return None


def _proxy_cause(chain: list[BaseException], address: str, host: str) -> str | None:
    proxy = proxy_for(address)
    if proxy is None:
        return None
    message = " ".join(str(one) for one in chain)
    if "407" in message:
        return proxy_refusal(407, address)
    named = [one for one in chain if "Proxy" in type(one).__name__]
    refused = re.search(r"failed: ([45]\d\d)\b", message) or next(
        (found for one in named if (found := re.match(r"([45]\d\d)\b", str(one)))), None
    )
    if refused:
        return f"the proxy {proxy} opens no way to {host} ({refused[1]}); ask who runs it, or put {host} into NO_PROXY"
    unreached = any(isinstance(one, ConnectionRefusedError | socket.gaierror) for one in chain)
    if named or unreached or any(type(one).__name__ in _UNREACHED for one in chain):
        return f"the proxy {proxy} does not answer; fix {_proxy_variable(address)}, or put {host} into NO_PROXY"
    return None


def _proxy_variable(address: str) -> str:
    return "HTTPS_PROXY" if urlsplit(address).scheme == "https" else "HTTP_PROXY"


def _certificate_cause(error: BaseException, host: str, variable: str) -> str:
    message = str(error)
    if "mismatch" in message or "is not valid for" in message or _of_other_name(error):
        return f"the certificate of {host} is issued for another name; use the name in it"
    if "has expired" in message:
        return f"the certificate of {host} has expired; renew it, or set this machine's clock"
    if "not yet valid" in message:
        return f"the certificate of {host} is not yet valid; set this machine's clock"
    named = next((name for name in (OWN_VARIABLE, variable) if os.environ.get(name)), None)
    given = f" (the file that {named} names now does not hold it)" if named and not _is_made(os.environ[named]) else ""
    return f"the certificate of {host} is not trusted; name the file of its authority in {variable}{given}"


def _of_other_name(error: BaseException) -> bool:
    """urllib3's own word for it, where a client lets it compare names itself."""
    return type(error).__name__ == "CertificateError"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that are behind it, in whichever way a library keeps them."""
    pending, seen = [error], set()
    while pending:
        one = pending.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        kept = getattr(one, "kwargs", None)
        behind = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        behind += [*(kept.values() if isinstance(kept, dict) else ()), *getattr(one, "exceptions", ())]
        pending += [other for other in behind if isinstance(other, BaseException)]


def _check(name: str, path: str) -> None:
    if Path(path).is_dir():
        if not any(_certificates(path)):
            raise BadInputError(f"{name}={path} is a folder without a PEM file of certificates; fix or unset it")
        return
    try:
        _read_authorities(path, os.stat(path).st_mtime_ns)
    except OSError as error:  # ssl.SSLError is one
        message = getattr(error, "strerror", None) or str(error)
        raise BadInputError(f"{name}={path} cannot be read as certificates ({message}); fix or unset it") from None


def _texts(path: str) -> Iterator[bytes]:
    if Path(path).is_dir():
        yield from _certificates(path)
    else:
        yield Path(path).read_bytes().strip()


def _certificates(path: str) -> Iterator[bytes]:
    """What the files of a folder hold, those that are certificates; the links of `openssl rehash` name them again."""
    with suppress(OSError):
        for file in sorted(Path(path).iterdir()):
            with suppress(OSError):
                text = file.read_bytes()
                if b"-----BEGIN CERTIFICATE-----" in text or b"-----BEGIN TRUSTED CERTIFICATE-----" in text:
                    _read_authorities(str(file), file.stat().st_mtime_ns)
                    yield text.strip()


@cache
def _read_authorities(path: str, changed_ns: int) -> None:
    """Read a file of certificates, once: several variables mostly name the same, and it takes a fortieth of a second.

    Raises OSError where it holds none.
    """
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)


_made: set[str] = set()


def _is_made(path: str) -> bool:
    """Whether a file is such a combination, of this process or of the one that started it."""
    return path in _made or (Path(path).parent.name == "authorities" and Path(path).parent == _kept_folder())


@cache
def _combined(paths: tuple[str, ...]) -> str:
    """A file with the public authorities and those of the files."""
    from botocore.httpsession import get_cert_path

    # Mozilla's list, from certifi or botocore, and this system's own, which a company may have added to.
    public = [path for path in (get_cert_path(True), *_SYSTEM) if Path(path).is_file()]
    texts = dict.fromkeys(text for path in (*public, *paths) for text in _texts(path))
    text = b"\n".join(texts) + b"\n"
    try:
        whole = _kept(text)
    except (OSError, StorageError):  # a cache that cannot be written
        whole = _temporary(text)
    _made.add(whole)
    return whole


def _kept_folder() -> Path:
    """Where such files are kept, below the folder of `lorapar.basemodel.cache`."""
    return cache_folder() / "authorities"


def _kept(text: bytes) -> str:
    """The text as a file named by its content: processes share it, and one that is killed leaves nothing new behind."""
    path = _kept_folder() / f"{hashlib.sha256(text).hexdigest()[:32]}.pem"
    if not path.is_file() or path.read_bytes() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(text)
        os.replace(part, path)
    return str(path)


def _temporary(text: bytes) -> str:
    """The text as a file that lasts as long as this process."""
    handle, whole = tempfile.mkstemp(prefix="lorapar-authorities-", suffix=".pem")
    with os.fdopen(handle, "wb") as file:
        file.write(text)
    maker = os.getpid()
    atexit.register(lambda: Path(whole).unlink(missing_ok=True) if os.getpid() == maker else None)
    return whole
