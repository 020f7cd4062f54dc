"""Answers requests: pages made by Starlette and Jinja2, a report in a sandbox of its own, headers, which hosts may ask.

Every route answers GET and HEAD only, and nothing behind them writes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorapar.errors import BadInputError, LoraparError
from lorapar.redaction import redact
from lorapar.registry import Registry
from lorapar.report.svg import style_sheet
from lorapar.ui import pages
from lorapar.ui.pages import FOLDER, Filter
from lorapar.ui.runs import Runs

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""Without allow-same-origin: whatever is in a report, it is of no origin, runs no script and asks for nothing."""
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Site:
    """The pages over some runs and a registry (None: none was named)."""

    def __init__(self, runs: Runs, registry: Registry | None) -> None:
        self._runs, self._registry = runs, registry
        self._templates = pages.environment()
        self._files = {
            "ui.css": (str(style_sheet("charts.css")) + (FOLDER / "ui.css").read_text(encoding="utf-8"), "text/css"),
            "ui.js": ((FOLDER / "ui.js").read_text(encoding="utf-8"), "text/javascript"),
        }

    def runs(self, request: Request) -> Response:
        """All runs."""
        return self._page(request, "runs.html", "runs", pages.runs_page(self._runs, Filter.of(request.query_params)))

    def run(self, request: Request) -> Response:
        """One run."""
        found = pages.run_page(self._runs, request.path_params["run"])
        return self._page(request, "run.html", "runs", _there(found, "There is no such run."))

    def report(self, request: Request) -> Response:
        """The report of a run, as it was written, in a sandbox."""
        found = _there(self._runs.report(request.path_params["run"]), "This run has no report yet.")
        text = redact(found.decode(errors="replace"))
        return Response(text, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})

    def compare(self, request: Request) -> Response:
        """Two runs."""
        names = request.query_params.getlist("run")
        if len(names) != 2 or names[0] == names[1]:
            raise HTTPException(400, f"Choose two runs to compare; {len(set(names)) or 'none'} chosen.")
        found = pages.compare_page(self._runs, names)
        return self._page(request, "compare.html", "runs", _there(found, "One of these runs is not there."))

    def adapters(self, request: Request) -> Response:
        """All adapters."""
        return self._page(request, "adapters.html", "adapters", pages.adapters_page(self._registry))

    def adapter(self, request: Request) -> Response:
        """One adapter."""
        found = pages.adapter_page(self._registry, request.path_params["name"])
        return self._page(request, "adapter.html", "adapters", _there(found, "There is no such adapter."))

    def static(self, request: Request) -> Response:
        """The style sheet and the script."""
        text, kind = _there(self._files.get(request.path_params["name"]), "There is no such file.")
        return Response(text, media_type=kind, headers={"cache-control": "max-age=300"})

    def health(self, request: Request) -> Response:
        """For probes: the server answers; whether the store does is seen on the pages."""
        return PlainTextResponse("ok")

    def problem(self, request: Request, error: Exception) -> Response:
        """One line about what cannot be shown."""
        if isinstance(error, HTTPException):
            status, title, line = (
                error.status_code,
                "Not found" if error.status_code == 404 else "Not like this",
                error.detail,
            )
        elif isinstance(error, BadInputError):
            status, title, line = 404, "Not found", str(error)
        else:
            status, title, line = 502, "Cannot be read", str(error)
        values = {"title": title, "line": line, "every": 0}
        return self._page(request, "problem.html", "", values, status)

    def bug(self, request: Request, error: Exception) -> Response:
        """A bug of ours: the traceback goes to the log, not to the page."""
        return PlainTextResponse("lorapar ui has met a bug; its log has the traceback", status_code=500)

    def _page(
        self, request: Request, template: str, here: str, values: Mapping[str, Any], status: int = 200
    ) -> Response:
        root = str(request.scope.get("root_path", ""))
        shown = {"here": here, "link": _links(root), "change": pages.change_words, **values}
        shown["address"] = values.get("address") if template == "adapters.html" else self._runs.address
        text = self._templates.get_template(template).render(**shown)
        return Response(text, status, media_type="text/html", headers={"content-security-policy": PAGE_POLICY})


def _links(root: str) -> Callable[..., str]:
    """Makes addresses on this site: `link("runs", ID)`, `link(query={...})`."""

    def link(*parts: str, query: Mapping[str, str] | None = None) -> str:
        path = root + "/" + "/".join(quote(part, safe="") for part in parts)
        return path + (f"?{urlencode(query)}" if query else "")

    return link


def _there(found: Any, complaint: str) -> Any:
    if found is None:
        raise HTTPException(404, complaint)
    return found


class _Outside:
    """Headers of every answer, and the path behind a proxy, whether that takes the prefix away or not."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if self._root and not (path == self._root or path.startswith(self._root + "/")):
            path = self._root + path
        scope = {**scope, "root_path": self._root, "path": path}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                held = {name for name, _ in message["headers"]}
                more = [
                    (name.encode(), value.encode()) for name, value in _HEADERS.items() if name.encode() not in held
                ]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self._app(scope, receive, sending)


def make_app(runs: Runs, registry: Registry | None, root_path: str = "", hosts: Iterable[str] = ("*",)) -> ASGIApp:
    """The site as an ASGI application.

    Args:
        root_path: prefix of every address behind a proxy, such as `/lorapar`.
        hosts: names that a request may ask for in its Host header; others get 400, so that a page elsewhere whose
            name is made to point here (DNS rebinding) reads nothing.
    """
    site = Site(runs, registry)
    routes = [
        Route("/", site.runs),
        Route("/healthz", site.health),
        Route("/runs/{run}", site.run),
        Route("/runs/{run}/report", site.report),
        Route("/compare", site.compare),
        Route("/adapters", site.adapters),
        Route("/adapters/{name}", site.adapter),
        Route("/static/{name}", site.static),
    ]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts]), Middleware(GZipMiddleware)]
    handlers: dict[Any, Any] = {HTTPException: site.problem, LoraparError: site.problem, Exception: site.bug}
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)
    return _Outside(app, check_root_path(root_path))


def check_root_path(root_path: str) -> str:
    """The prefix without a slash at its end; raises BadInputError for what is no plain path."""
    root = root_path.rstrip("/")
    if root and (not root.startswith("/") or "//" in root or not root.isascii() or set(root) & set("?#\"'<> \\")):
        raise BadInputError(f"--root-path {root_path}: write a plain path that begins with /, such as /lorapar")
    return root


def hosts_of(host: str, allowed: Iterable[str]) -> list[str]:
    """Host names that may be asked for: those given, and this machine's own; all where it listens to others too."""
    named = [*allowed]
    if not named and host not in LOOPBACK:
        return ["*"]
    return [*LOOPBACK, *named]


def serve(app: ASGIApp, host: str, port: int, print_line: Callable[[str], None]) -> None:
    """Answer until the process is told to end. Raises BadInputError where nothing can listen there."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")
    except (OSError, OverflowError) as error:
        message = getattr(error, "strerror", None) or error
        raise BadInputError(
            f"--host {host} --port {port}: cannot listen there ({message}); choose another port"
        ) from None
    named = f"[{host}]" if ":" in host else host
    print_line(f"http://{named}:{listening.getsockname()[1]}")
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
    with suppress(KeyboardInterrupt):  # Ctrl-C and SIGTERM are how it ends; uvicorn has answered what was asked
        uvicorn.Server(config).run(sockets=[listening])
