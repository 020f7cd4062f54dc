"""execute without generated code: everything passes through."""

from __future__ import annotations

from lorapar.store import seal, verify


def test_an_evaluation_without_code_passes_through(kit, tmp_path) -> None:
    evaluation = tmp_path / "evaluation"
    (evaluation / "benchmarks").mkdir(parents=True)
    (evaluation / "answers.jsonl").write_text("{}\n")
    (evaluation / "benchmarks" / "gsm8k.jsonl").write_text("{}\n")
    before = seal(evaluation, "evaluate.evaluation")
    _, out = kit.run("execute", tmp_path / "out", {}, {"evaluation": evaluation})
    assert verify(out / "evaluation").files == before.files
