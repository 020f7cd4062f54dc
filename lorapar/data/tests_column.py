"""The column of tests: Python source that an answer's code must pass, checked for every row before anything starts."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from lorapar.data.cells import BadRowError
from lorapar.data.written import texts_in


def tests_of(where: str, column: str, texts: Sequence[str]) -> str | None:
    """One source from a text, a list of texts, or such a list as text (from a CSV file); None where there are no tests.

    Raises BadRowError where it is not Python, or asserts nothing.
    """
    source = "\n".join(_listed(texts))
    if not source.strip():
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise BadRowError(f"{where}: '{column}' is no Python ({error}); give asserts that call the function") from None
    if not any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(tree)):
        raise BadRowError(
            f"{where}: '{column}' asserts nothing, so every answer would pass; give lines such as assert add(2, 3) == 5"
        )
    if len(tree.body) == sum(isinstance(node, _DEFINITIONS) for node in tree.body):
        raise BadRowError(f"{where}: '{column}' only defines functions and calls none; call them at its end")
    return source


_DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def _listed(texts: Sequence[str]) -> list[str]:
    listed = texts_in(texts[0]) if len(texts) == 1 else None
    return list(texts) if listed is None else listed
