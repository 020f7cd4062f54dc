"""What to type to install an optional part of the package, from where the package itself came."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname


def pip_install(extras: str) -> str:
    """The command that adds extras, such as `train,eval`: of the same checkout, file or repository, else by name.

    pip and uv note where a package came from if that is no index (direct_url.json; Python packaging's "Recording the
    Direct URL Origin of installed distributions", PEP 610). A folder or wheel that is gone since is not named.
    """
    return f"pip install {shlex.quote(_origin(extras))}"


def _origin(extras: str) -> str:
    named = f"lorapar[{extras}]"
    origin = _direct_url()
    url = str(origin.get("url") or "")
    if urlsplit(url).scheme == "file":
        path = Path(url2pathname(urlsplit(url).path))
        return f"{path}[{extras}]" if path.exists() else named
    repository = origin.get("vcs_info")
    if repository:
        return f"{named} @ {repository['vcs']}+{url}@{repository['commit_id']}"
    return f"{named} @ {url}" if url else named


def _direct_url() -> dict[str, Any]:
    """Empty where the package came from an index, or is not installed at all."""
    try:
        text = distribution("lorapar").read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}
