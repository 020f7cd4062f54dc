"""The style sheets and templates that lie beside this module."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from markupsafe import Markup

FOLDER = Path(__file__).parent


@cache
def style_sheet(name: str) -> Markup:
    """A style sheet as it goes into a <style> element. It is ours, so it is not escaped."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))  # noqa: S704
