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


def test_a_reward_of_ones_own_counts_with_its_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_counted_rewards.py"
    file.write_text("def short(completions, references): return [1.0] * len(completions)\n", encoding="utf-8")
    settings = {"rl": {"rewards": {"exact_answer": 2.0, "my_counted_rewards:short": 0.5}}}
    before = code.own_code_digest(settings)
    file.write_text("def short(completions, references): return [0.5] * len(completions)\n", encoding="utf-8")
    assert code.own_code_digest(settings) != before
    assert code.own_code_digest({"rl": {"rewards": {"exact_answer": 2.0}}}) == ""
