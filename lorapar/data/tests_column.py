"""The column of tests: Python source that an answer's code must pass, checked for every row before anything starts."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Sequence

from lorapar.data.cells import BadRowError
from lorapar.data.written import texts_in

BEFORE_TESTS = ("test_imports", "test_setup_code", "test_setup")
"""Columns of code that MBPP's tests need before them."""


def setup_of(texts: Sequence[str]) -> str | None:
    """The code in a column that stands before tests, empty where there is none; None where it is no Python."""
    source = "\n".join(line for line in _listed(texts) if line.strip())
    try:
        symtable.symtable(source, "setup", "exec")
    except (SyntaxError, ValueError):
        return None
    return source


def tests_of(where: str, column: str, texts: Sequence[str], before: Sequence[str]) -> str | None:
    """One source from a text, a list of texts, or such a list as text (from a CSV file); None where there are no tests.

    `before` holds the code of other columns that the tests need (`setup_of`), such as imports. Its own asserts test
    nothing.

    Raises BadRowError where it is not Python, or where every answer would pass.
    """
    source = "\n".join(_listed(texts))
    if not source.strip():
        return None
    setup = "\n".join(filter(None, before))
    whole = f"{setup}\n{source}" if setup else source
    try:
        tree = ast.parse(source)
        tree.body = [*filter(_only_prepares, ast.parse(setup).body), *tree.body]
        fault = _passes_everything(whole, tree)  # its table of names refuses more than the parser
    except (SyntaxError, ValueError) as error:
        raise BadRowError(f"{where}: '{column}' is no Python ({error}); give asserts that call the function") from None
    if fault is not None:
        raise BadRowError(f"{where}: '{column}' {fault}")
    return whole


def _only_prepares(statement: ast.stmt) -> bool:
    """Whether a statement before tests defines something, and tests nothing itself."""
    return isinstance(statement, (*_FUNCTIONS, ast.ClassDef)) or not _asserts(statement)


def _passes_everything(source: str, tree: ast.Module) -> str | None:
    """Why every answer would pass, and what to do; None where an answer can fail."""
    if not _asserts(tree):
        return "asserts nothing, so every answer would pass; give lines such as assert add(2, 3) == 5"
    if not _reaches_an_assert(tree):
        idle = [node.name for node in ast.walk(tree) if isinstance(node, _FUNCTIONS) and _asserts(node)]
        return (
            f"asserts in {', '.join(idle[:3])} only and never calls it, so every answer would pass; call it at the end"
        )
    if not free_names(source) - set(dir(builtins)):
        return (
            "uses no name that the answer would define (built-in and imported functions are not the answer's), so all "
            "answers would come out alike; call the answer's functions by their names"
        )
    return None


def _asserts(tree: ast.AST) -> bool:
    return any(map(_can_fail, ast.walk(tree)))


def _can_fail(node: ast.AST) -> bool:
    """Whether a node is an assert, an exception, or a call such as `numpy.testing.assert_allclose(...)`.

    `assert (x == 3, "wrong")` is none: Python asserts that a tuple of two is not empty.
    """
    if isinstance(node, ast.Assert):
        return not (isinstance(node.test, ast.Tuple) and node.test.elts)
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return name.startswith("assert") or name == "fail"
    return isinstance(node, ast.Raise)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_CALLS_BY_TEXT = frozenset({"globals", "locals", "vars", "dir", "getattr", "eval", "exec"})
"""Built-in functions through which a name in a text can be called."""


def _reaches_an_assert(tree: ast.Module) -> bool:
    """Whether running a source comes to an assert: in itself, or in a function of its own whose name it uses."""
    defined: dict[str, list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            defined.setdefault(node.name, []).append(node)
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            if _can_fail(node) or name in _CALLS_BY_TEXT:
                return True
            waiting += defined.pop(name, [])
            if not isinstance(node, _FUNCTIONS) or node.decorator_list or node.name.startswith("__"):
                waiting.append(node)
    return False


def free_names(source: str) -> set[str]:
    """Global names that a source reads and never sets: built-in ones, and those it is given by the answer.

    `lorapar.evaluation.sandbox.tested` also hands the text of this function to the program that runs the tests.
    """
    tables, read, own = [symtable.symtable(source, "tests", "exec")], set(), set()
    for table in tables:
        tables += table.get_children()
        for symbol in table.get_symbols():
            if table.get_type() == "module" or symbol.is_global():
                if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
                    own.add(symbol.get_name())
                if symbol.is_referenced():
                    read.add(symbol.get_name())
    return read - own


def _listed(texts: Sequence[str]) -> list[str]:
    listed = texts_in(texts[0]) if len(texts) == 1 else None
    return list(texts) if listed is None else listed
