"""The column of tests: Python source that an answer's code must pass, checked for every row before anything starts."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Mapping, Sequence

from lorapar.data.cells import BadRowError
from lorapar.data.written import texts_in

BEFORE_TESTS = ("test_imports", "test_setup_code", "test_setup")
"""Columns of code that MBPP's tests need before them."""


def setup_of(texts: Sequence[str]) -> str | None:
    """The code in a column that stands before tests, empty where there is none; None where it is not Python."""
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
        raise BadRowError(f"{where}: '{column}' is not Python ({error}); give asserts that call the function") from None
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
        return _how_none_is_reached(tree)
    if not free_names(source) - set(dir(builtins)):
        return (
            "uses no name that the answer would define (built-in and imported functions are not the answer's), so all "
            "answers would come out alike; call the answer's functions by their names"
        )
    return None


def _how_none_is_reached(tree: ast.Module) -> str:
    idle = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS) and _asserts(node)]
    names = ", ".join(node.name for node in idle[:3])
    called = {getattr(node.func, "id", "") for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if later := [node.name for node in idle if _runs_later(node) and node.name in called]:
        return (
            f"asserts in {names} only, and a call of {later[0]} runs nothing of it, so every answer would pass; write "
            f"asyncio.run({later[0]}()), or list({later[0]}()) for a generator"
        )
    if not idle or {node.name for node in idle} & called:
        return (
            "asserts only where no failure shows (an except takes it, or an if is never true), so every answer would "
            "pass; assert outside of it"
        )
    return f"asserts in {names} only and never calls it, so every answer would pass; call it at the end"


def _asserts(tree: ast.AST) -> bool:
    return any(map(_can_fail, ast.walk(tree)))


def _can_fail(node: ast.AST) -> bool:
    """Whether a node is an assert, an exception, or a call such as `numpy.testing.assert_allclose(...)`.

    So is a call that ends the program with a word or a number other than 0 (`sys.exit(1)`). An assert that is true
    whatever the answer does is none: `assert True`, `assert (x == 3, "wrong")`.
    """
    if isinstance(node, ast.Assert):
        return not _is_true(node.test)
    if isinstance(node, ast.Call):
        name = _called(node)
        return name.startswith("assert") or name == "fail" or (name in _EXITS and any(map(_is_no_zero, node.args)))
    return isinstance(node, ast.Raise)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_no_zero(argument: ast.expr) -> bool:
    return not isinstance(argument, ast.Constant) or argument.value not in (0, None)


def _is_true(test: ast.expr) -> bool:
    """Whether a condition is true for every answer: a true constant, something that holds another, `f(2) == f(2)`."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Tuple | ast.List | ast.Set | ast.Dict):
        return bool(test.keys if isinstance(test, ast.Dict) else test.elts)
    if isinstance(test, ast.BoolOp):
        return (any if isinstance(test.op, ast.Or) else all)(map(_is_true, test.values))
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.Is | ast.LtE | ast.GtE):
        alike = len(test.ops) == 1 and ast.dump(test.left) == ast.dump(test.comparators[0])
        return alike and _has_one_value(test.left, is_same=isinstance(test.ops[0], ast.Is))
    return isinstance(test, ast.Lambda | ast.JoinedStr | ast.GeneratorExp)


def _has_one_value(side: ast.expr, *, is_same: bool) -> bool:
    """Whether an expression compared with itself is equal: it calls nothing, or only functions of constants.

    `next(g)` and `s.pop()` have states, `Point(1) == Point(1)` needs an `__eq__`, and `f(1) is f(1)` needs one object.
    """
    calls = [node for node in ast.walk(side) if isinstance(node, ast.Call)]
    names = [node.id for node in ast.walk(side) if isinstance(node, ast.Name)]
    functions = [name for call in calls if (name := getattr(call.func, "id", ""))[:1].islower()]
    return not calls or (not is_same and len(functions) == len(calls) == len(names))


def _is_caught(node: ast.Try | ast.TryStar, functions: _Defined) -> bool:
    """Whether what fails in a `try` ends there: a handler takes every exception, and raises none."""
    for handler in node.handlers:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        takes_all = any(kind is None or getattr(kind, "id", "") in _TAKE_ASSERTIONS for kind in kinds)
        if takes_all and not _stops(handler, functions):
            return True
    return False


def _stops(handler: ast.AST, functions: _Defined) -> bool:
    """Whether something in a handler, or in an own function that it calls, fails or ends the program."""
    waiting, known = [handler], set[str]()
    while waiting:
        for node in ast.walk(waiting.pop()):
            name = _called(node) if isinstance(node, ast.Call) else ""
            if _can_fail(node) or name in _EXITS:
                return True
            if name not in known:
                known.add(name)
                waiting += functions.get(name, ())
    return False


_Defined = Mapping[str, Sequence[ast.AST]]
"""Functions and classes of a source by their names."""
_EXITS = ("exit", "quit", "_exit")
_TAKE_ASSERTIONS = frozenset({"AssertionError", "Exception", "BaseException"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_CALLS_BY_TEXT = frozenset({"globals", "locals", "vars", "dir", "getattr", "eval", "exec"})
"""Built-in functions through which a name in a text can be called."""


def _reaches_an_assert(tree: ast.Module) -> bool:
    """Whether running a source comes to an assert: in itself, or in a function of its own whose name it uses.

    Calling a coroutine or a generator runs nothing of it, and an assert in a `try` that takes its exception fails
    nothing.
    """
    defined: dict[str, list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            defined.setdefault(node.name, []).append(node)
    functions = dict(defined)
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in _that_run(waiting.pop(), functions):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            if _can_fail(node) or name in _CALLS_BY_TEXT:
                return True
            waiting += defined.pop(name, [])
            if not isinstance(node, _FUNCTIONS) or node.decorator_list or node.name.startswith("__"):
                waiting.append(node)
    return False


def _that_run(node: ast.AST, defined: _Defined) -> list[ast.AST]:
    """The parts of a node that count: not what a handler catches, and not the name in a call that runs nothing."""
    if isinstance(node, ast.Try | ast.TryStar) and _is_caught(node, defined):
        return [*(one for handler in node.handlers for one in handler.body), *node.orelse, *node.finalbody]
    if isinstance(node, ast.If) and isinstance(node.test, ast.Constant) and not node.test.value:
        return list(node.orelse)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        own = defined.get(getattr(node.value.func, "id", ""), ())
        if own and all(map(_runs_later, own)):
            return [*node.value.args, *node.value.keywords]
    return list(ast.iter_child_nodes(node))


def _runs_later(function: ast.AST) -> bool:
    """Whether calling a function only makes a coroutine or a generator."""
    if not isinstance(function, ast.FunctionDef):
        return isinstance(function, ast.AsyncFunctionDef)
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, (*_FUNCTIONS, ast.Lambda, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)
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
