"""docs/troubleshooting.md quotes what is printed: each line it shows stands in the source, placeholders aside."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from lorapar.errors import ExitCode

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
FOREIGN = (
    "must specify limits.cpu",  # Kubernetes, resource quota
    "must be less than or equal to cpu limit",  # Kubernetes, a LimitRange
    "maximum memory usage per Container is",
    "unable to validate against any security context constraint",  # OpenShift
    "runAsUser: Invalid value: 10001",
    "Address family not supported",  # the C library
    "is required",  # helm, of a value that the chart's schema asks for
    "Additional property",  # helm, of one it does not know
    "is not allowed",
    "pipeline lorapar already exists",  # Kubeflow
    "specified clusterTrainingRuntime must be created before the TrainJob is created",  # Kubeflow Trainer
    "'Sign in'",  # a web page
)
"""What others print; the page says what it means here."""
LONGEST_VALUE = 48
MOST_WORDS = 3
SHORTEST = 5
ENOUGH = 8
"""Letters that a quoted line and a line of the source must share beyond placeholders."""
Pieces = tuple[str, ...]
"""A text of the source with a value between each two pieces."""


def pieces_of(node: ast.AST) -> Pieces | None:
    """The fixed parts of a text in Python; None where it has none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if isinstance(node, ast.JoinedStr):
        found = [""]
        for part in node.values:
            if isinstance(part, ast.Constant):
                found[-1] += str(part.value)
            else:
                found.append("")
        return tuple(found)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (pieces_of(side) or ("", "") for side in (node.left, node.right))
        return (*left[:-1], left[-1] + right[0], *right[1:])
    return None


@cache
def source() -> frozenset[Pieces]:
    """Every text of the package, the chart and the images."""
    found: set[Pieces] = set()
    for path in (*ROOT.glob("lorapar/**/*.py"), *ROOT.glob("helm/**/*.py"), *ROOT.glob("images/**/*.py")):
        texts = map(pieces_of, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        found |= {text for text in texts if text and sum(map(len, text)) >= SHORTEST}
    for path in (*ROOT.glob("helm/lorapar/**/*"), *ROOT.glob("images/**/*")):
        if path.suffix in (".sh", ".tpl", ".yaml", ".txt"):
            lines = path.read_text(encoding="utf-8").splitlines()
            found |= {tuple(re.split(r"\{\{.*?\}\}|\$\{\w+[^}]*\}|\$\w+|%s", line)) for line in lines}
    return frozenset(found)


def is_value(text: str) -> bool:
    """Whether a text may stand for a value: a name, a number, an example of a few words."""
    return len(text) <= LONGEST_VALUE and len(text.split()) <= MOST_WORDS


def shared(quote: str, pieces: Pieces, start: int) -> int:
    """Letters that the quote has in common with the pieces from `start` on, a value before each; -1: it differs."""
    most = 0 if is_value(quote) else -1
    if start == len(pieces):
        return most
    piece, at = pieces[start], quote.find(pieces[start])
    while at >= 0 and piece and is_value(quote[:at]):
        rest = quote[at + len(piece) :]
        after = shared(rest, pieces, start + 1) if start + 1 < len(pieces) else 0 if not rest else -1
        most = max(most, len(piece) + after) if after >= 0 else most
        at = quote.find(piece, at + 1)
    if not piece and start + 1 < len(pieces):
        most = max(most, shared(quote, pieces, start + 1))
    for length in range(len(piece) - 1, 0, -1):
        if quote.endswith(piece[:length]) and is_value(quote[:-length]):
            return max(most, length)
    return most


def letters_in(quote: str, pieces: Pieces) -> int:
    """As `shared`, where the quote may begin anywhere in the text."""
    most = -1
    for number, piece in enumerate(pieces):
        if quote in piece:
            return len(quote)
        for cut in range(len(piece) + 1) if number + 1 < len(pieces) else ():
            if quote.startswith(piece[cut:]):
                after = shared(quote[len(piece) - cut :], pieces, number + 1)
                most = max(most, len(piece) - cut + after) if after >= 0 else most
    return most


def is_said(quote: str) -> bool:
    """Whether the source says this, in one text or in two that are put together."""
    words = re.findall(r"[A-Za-z]{3,}", quote)
    near = [text for text in source() if any(word in piece for word in words for piece in text)]

    def stands(part: str, enough: float) -> bool:
        return any(letters_in(part, text) >= enough for text in near)

    def meets(first: str, second: str) -> bool:
        """Whether a text may end with the one, and another begin with the other."""
        ends = any(piece.strip().endswith(first) for text in near for piece in text)
        begins = any(piece.strip().startswith(second) for text in near for piece in text)
        return all(
            found or (" " in half and stands(half, max(4, len(half) / 2)))
            for half, found in ((first, ends), (second, begins))
        )

    before, colon, after = quote.rpartition(": ")
    if colon and all(" " not in side or is_said(side) for side in (before, after)):
        return True
    cuts = (at.span() for at in re.finditer(" ", quote))
    return stands(quote, min(ENOUGH, len(quote) / 2)) or any(meets(quote[:end], quote[start:]) for end, start in cuts)


def quotes(cell: str) -> list[str]:
    return [match[1] for match in re.findall(r"(?<!`)(`+)(.+?)\1(?!`)", cell)]


def quoted() -> Iterator[str]:
    """The fixed parts of each line in the page's first column; `…` stands for a value, one word is a name."""
    for row in PAGE.read_text(encoding="utf-8").splitlines():
        if not row.startswith("| ") or row.startswith("| you see"):
            continue
        for line in quotes(re.split(r"(?<!\\) \| ", row[2:])[0]):
            whole = re.sub(r"^WARNING: |^[\w.-]+:\d+: ", "", line.replace("\\|", "|"))
            parts = (part.strip(" ;:,.`") for part in re.split(r"[…;()]", whole))
            yield from (part for part in parts if len(part) >= SHORTEST and " " in part)


@pytest.mark.parametrize("part", dict.fromkeys(quoted()))
def test_what_the_page_quotes_is_what_is_printed(part: str) -> None:
    assert part in FOREIGN or is_said(part), f"nothing prints '{part}'; fix the page, or the source"


def test_what_others_print_is_quoted() -> None:
    assert set(FOREIGN) <= set(quoted())


@pytest.mark.parametrize("code", [one for one in ExitCode if one is not ExitCode.OK], ids=lambda code: code.name)
def test_every_exit_code_has_a_row(code: ExitCode) -> None:
    rows = [row for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| ")]
    assert any(row.startswith(f"| exit code {int(code)}") for row in rows)


@pytest.mark.parametrize(
    "wrong", ["was stopped in Kubeflow during", "has not begun after 2 min", "rows were thrown away by the tokenizer"]
)
def test_words_that_nothing_prints_are_found_out(wrong: str) -> None:
    assert not is_said(wrong)


PIPELINE = ("server", "ledger", "executor", "executor_io", "submission", "controller", "summary")
ERRORS = ("UnreachableError", "BadInputError", "IntegrityError", "Ending")
SUCCESSES = ("better", "nothing changed since run", "trained and published")


def failures() -> Iterator[tuple[str, Pieces]]:
    """The lines that a pipeline's tasks and `submit --wait` end with, by their modules."""
    for module in PIPELINE:
        tree = ast.parse((ROOT / "lorapar" / "kubeflow" / f"{module}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                for pieces in filter(None, map(pieces_of, node.args)):
                    fixed = " ".join(pieces).strip(" :;,.()'")
                    if len(fixed) > ENOUGH and not any(word in fixed for word in SUCCESSES):
                        yield module, pieces


@pytest.mark.parametrize(("module", "pieces"), dict.fromkeys(failures()))
def test_every_line_that_a_pipeline_fails_with_has_a_row(module: str, pieces: Pieces) -> None:
    assert any(letters_in(part, pieces) >= ENOUGH for part in quoted()), f"{module}: {'…'.join(pieces)}"
