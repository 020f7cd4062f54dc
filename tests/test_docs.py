"""The documentation says what the code does: generated pages, exit codes, command lines, links, and a page a stage."""

from __future__ import annotations

import io
import re
import shlex
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from docs.describe_files import PAGE, page_text
from lorapar.cli import app
from lorapar.cli.documents_reference import documents_text
from lorapar.config import load_config
from lorapar.config.reference import reference_text
from lorapar.data.source import kind_of
from lorapar.errors import ExitCode
from lorapar.stages.contract import STAGE_NAMES, stage_spec

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^\]]*(?:\[\][^\]]*)*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
ELLIPSES = ("…", "...")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def ids(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


def test_the_list_of_files_is_what_their_docstrings_say() -> None:
    assert text_of(PAGE) == page_text(), "run `make docs` and commit docs/files.md"


def test_settings_page_is_what_the_models_say() -> None:
    assert text_of(DOCS / "configuration.md") == reference_text(), "run `make docs` and commit docs/configuration.md"


def test_json_page_is_what_the_models_say() -> None:
    assert text_of(DOCS / "json.md") == documents_text(), "run `make docs` and commit docs/json.md"


def test_exit_codes_page_lists_exactly_the_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", text_of(DOCS / "exit-codes.md"), re.MULTILINE)
    assert [(int(code), name) for code, name in rows] == [(code.value, code.name) for code in ExitCode]


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_rows_of_a_table_have_as_many_cells_as_its_head(page: Path) -> None:
    """A bar in a cell has a backslash, in code too; otherwise the rest of the row is not shown."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, *rows = (re.split(r"(?<!\\)\|", row) for row in table.splitlines())
        assert not [row for row in rows if len(row) != len(head)]


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_stage_has_a_page_that_names_its_settings_inputs_and_outputs(stage: str) -> None:
    text, spec = text_of(DOCS / "stages" / f"{stage}.md"), stage_spec(stage)
    assert text.startswith(f"# {stage}\n")
    sections = () if stage == "plan" else spec.sections
    missing = [name for name in (*sections, *spec.inputs, *spec.many, *spec.outputs) if f"`{name}`" not in text]
    assert not missing, f"docs/stages/{stage}.md does not mention {missing}"


def test_no_page_for_a_stage_that_is_not_there() -> None:
    assert {page.stem for page in (DOCS / "stages").glob("*.md")} == set(STAGE_NAMES)


def anchors_of(page: Path) -> set[str]:
    """Anchors that Markdown renderers give a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in (first or second for first, second in LINK.findall(text_of(page))):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert not broken, f"{page}: these lead nowhere: {broken}"


def code_lines(page: Path, command: str) -> list[str]:
    """Lines in code, fenced or between backticks, that call a command; `\\` at a line's end joins it with the next."""
    text = text_of(page).replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    fenced = re.findall(rf"^\s*(?:\w+=\S+ )*({command} .+)$", blocks, re.MULTILINE)
    return fenced + re.findall(rf"`(?:\w+=\S+ )*({command} [^`\n]+)`", prose)


def command_lines() -> Iterator[tuple[str, str]]:
    """(page, command line) of every `lorapar ...` shown in code, but for those that leave words out."""
    for page in PAGES:
        for line in code_lines(page, "lorapar"):
            if not any(mark in line for mark in ELLIPSES):
                yield page.relative_to(ROOT).as_posix(), line


@pytest.mark.parametrize(("page", "line"), sorted(set(command_lines())))
def test_command_line_in_the_docs_is_one_that_works(page: str, line: str) -> None:
    """Words in capitals are gaps for the reader to fill; all else must parse, presets and settings included."""
    words = shlex.split(line, comments=True)
    words = words[1 : next((place for place, word in enumerate(words) if word in ("|", ">", "&&", ";")), len(words))]
    group: Any = typer.main.get_command(app)
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--version", *(option for p in group.params for option in p.opts))
        return
    assert words[0] in group.commands, f"{page}: `{line}`: there is no such command"
    if len(words) == 1:
        return  # the name of a command in a sentence
    values = group.commands[words[0]].make_context(words[0], words[1:], resilient_parsing="--help" in words).params
    overrides = [text for text in values.get("overrides") or [] if not re.search(r"\b[A-Z]{3,}\b", text)]
    preset = values.get("preset")
    config = load_config(preset=preset if preset and not preset.isupper() else None, overrides=overrides)
    assert all(map(kind_of, config.data.parts))


YAML_BLOCKS = [
    (page.relative_to(ROOT).as_posix(), block)
    for page in PAGES
    for block in re.findall(r"^```yaml\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("page", "block"), YAML_BLOCKS)
def test_settings_shown_in_the_docs_are_valid(page: str, block: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(block, encoding="utf-8")
    assert all(map(kind_of, load_config(file=file).data.parts))


MODULE_PATH = re.compile(r"(?<![\w./{}<>-])((?:[\w-]+/)+[\w-]+\.py)\b")
DOTTED_NAME = re.compile(r"(?<![\w./-])lorapar(?:\.[a-z_]\w*)+")
OTHER_NAMES = ("lorapar.io", "lorapar.yaml", "lorapar.schema.json", "lorapar.example.com", "lorapar.enabled")
PACKAGE = ROOT / "lorapar"
ROOMS = {path.name for path in (PACKAGE, ROOT / "tests", DOCS, ROOT / "pipelines", *PACKAGE.iterdir()) if path.is_dir()}


def names_a_module(name: str) -> bool:
    """Whether a path or a dotted name leads to a module, or to a name that its package's text has."""
    if "/" in name:
        return name.split("/")[0] not in ROOMS or any(
            (base / name).is_file() for base in (ROOT, PACKAGE, ROOT / "tests")
        )
    place = ROOT
    for part in name.split("."):
        if (place / part).is_dir():
            place /= part
            continue
        module = place / f"{part}.py"
        return module.is_file() or re.search(rf"\b{part}\b", text_of(place / "__init__.py")) is not None
    return True


def unknown_modules(text: str) -> set[str]:
    """Modules of lorapar that a text names and that are not there."""
    found = {*MODULE_PATH.findall(text), *DOTTED_NAME.findall(text)}
    return {name for name in found if not name.startswith(OTHER_NAMES) and not names_a_module(name)}


def prose_of(code: str) -> str:
    """Comments and docstrings of a module."""
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    begins = (tokenize.ENCODING, tokenize.INDENT, tokenize.DEDENT, tokenize.NEWLINE, tokenize.NL)
    lone = {0, *(place + 1 for place, token in enumerate(tokens) if token.type in begins)}
    return "\n".join(
        token.string
        for place, token in enumerate(tokens)
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and place in lone)
    )


def test_modules_that_comments_docstrings_and_pages_name_exist() -> None:
    """CHANGELOG.md aside, which is about earlier states."""
    code = (path for folder in (PACKAGE, ROOT / "tests", ROOT / "pipelines") for path in folder.rglob("*.py"))
    gone = {}
    for path in (*code, *(page for page in PAGES if page.name != "CHANGELOG.md")):
        text = text_of(path)
        # Code is taken apart only where there is something to find: that takes long.
        if (names := unknown_modules(text)) and path.suffix == ".py":
            names = unknown_modules(prose_of(text))
        if names:
            gone[path.relative_to(ROOT).as_posix()] = sorted(names)
    assert not gone


def test_the_docs_show_command_lines_at_all() -> None:
    assert len(set(command_lines())) > 10


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    shown = {line.split()[1] for page in PAGES for line in code_lines(page, "make")}
    assert "demo" in shown
    assert shown <= targets
