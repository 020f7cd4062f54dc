"""The digest of a stage's code covers what it imports and nothing else."""

import ast
from pathlib import Path

import lorapar
from lorapar import own_code as code

PACKAGE = Path(lorapar.__file__).parent


def parsed_imports(source: str) -> set[str]:
    """The modules of this package that Python's own parser finds in a source's imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if code._is_module(name)}


def test_no_import_is_missed() -> None:
    """A line of a docstring may look like one, which costs nothing; one that is not seen would reuse what is stale."""
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE.parent).with_suffix("")
        module = ".".join(place.parts).removesuffix(".__init__")
        assert parsed_imports(path.read_text(encoding="utf-8")) <= set(code._imports(module)), module


def test_a_stage_reaches_the_rooms_it_calls_but_not_the_report():
    reached = code._reachable("lorapar.stages.sft")
    assert "lorapar.training.sft" in reached
    assert "lorapar.adapter.partition" in reached
    assert not [name for name in reached if name.startswith(("lorapar.report", "lorapar.local", "lorapar.cli"))]


def test_imports_inside_functions_count():
    assert "lorapar.evaluation" in {
        name[: len("lorapar.evaluation")] for name in code._reachable("lorapar.stages.evaluate")
    }


def test_a_changed_source_changes_the_digest(monkeypatch):
    before = code.code_digest("lorapar.stages.partition")
    source = code._source
    monkeypatch.setattr(
        code, "_source", lambda name: source(name) + ("#" if name == "lorapar.adapter.partition" else "")
    )
    code.code_digest.cache_clear()
    assert code.code_digest("lorapar.stages.partition") != before
    code.code_digest.cache_clear()
    monkeypatch.undo()
    assert code.code_digest("lorapar.stages.partition") == before


def test_a_reward_of_ones_own_counts_with_its_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_counted_rewards.py"
    file.write_text("def short(completions, references): return [1.0] * len(completions)\n", encoding="utf-8")
    settings = {"rl": {"rewards": {"exact_answer": 2.0, "my_counted_rewards:short": 0.5}}}
    before = code.own_code_digest(settings)
    file.write_text("def short(completions, references): return [0.5] * len(completions)\n", encoding="utf-8")
    assert code.own_code_digest(settings) != before
    assert code.own_code_digest({"rl": {"rewards": {"exact_answer": 2.0}}}) == ""
