"""The digest of a stage's code covers what it imports and nothing else."""

from lorapar.stages import code


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
