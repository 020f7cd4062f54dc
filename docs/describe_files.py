"""Write docs/files.md from the first sentence of every module: `python -m docs.describe_files`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "files.md"
HEAD = """# Every file, and what it is for

Made from the first sentence of each module by `make docs`. [Architecture](architecture.md) says which room may import
which, and where a setting, a reward, a teacher, a stage, a section of the report or a store goes.
"""


def page_text() -> str:
    """The page: a table for each room of the package, in the order of their names, its plain modules first."""
    package = ROOT / "lorapar"
    rooms = sorted(folder for folder in package.iterdir() if (folder / "__init__.py").is_file())
    return HEAD + _table("lorapar", package) + "".join(_table(f"lorapar/{room.name}", room) for room in rooms)


def _table(title: str, folder: Path) -> str:
    rows = [f"| `{path.name}` | {_purpose(path)} |" for path in sorted(folder.glob("*.py"))]
    return "\n".join(["", f"## {title}", "", "| file | what it is for |", "|---|---|", *rows, ""])


def _purpose(path: Path) -> str:
    about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(about.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.:]) (?=[A-Z])", paragraph, maxsplit=1)[0]
    return sentence.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8")
