"""A whole run from rows as people have them: two sources, conversations of several turns, every answer learned."""

import json

from lorapar.records import Example, read_json, read_records
from tests.conftest import run_cli


def test_a_run_from_two_sources_and_conversations(tmp_path):
    talks, sums = tmp_path / "talks.jsonl", tmp_path / "sums.csv"
    first = [{"role": "system", "content": "Count well."}, {"role": "user", "content": "Ready?"}]
    rows = [
        [*first, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": f"Double {n}?"},
         {"role": "assistant", "content": f"<answer>{2 * n}</answer>"}]
        for n in range(18)
    ]  # fmt: skip
    lines = [json.dumps({"messages": one, "reference": str(2 * n)}) for n, one in enumerate(rows)]
    talks.write_text("\n".join(lines), encoding="utf-8")
    sums.write_text("problem;solution\n" + "".join(f"{n}+1?;It is \\boxed{{{n + 1}}}\n" for n in range(24)))
    out = tmp_path / "run"
    sources = f"data.sources=[{{source: {talks}, weight: 1}}, {{source: {sums}, weight: 1}}]"
    wide = ["sft.train_on=all", "sft.max_length=400", "rl.max_prompt_length=400", "data.heldout=8"]
    given = [part for one in (sources, *wide) for part in ("--set", one)]
    done = run_cli("run", "--preset", "tiny", *given, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"plan: data: {talks} is recognised as conversations (chat messages)" in done.stdout
    assert f"prepare: 18 of 36 rows are of {sums}, drawn from 24 by weight and limit" in done.stdout
    found = read_json(out / "metrics.json")["data"]
    assert found["rows"] == {"train": 28, "heldout": 8}
    assert [one["kept"] for one in found["sources"]] == [18, 18]
    assert found["overlap"] == {"held-out rows": 0}
    examples = next(out.rglob("prepare/**/examples.jsonl"), None) or next(out.rglob("examples.jsonl"))
    asked = [row for row in read_records(examples, Example) if row.history]
    assert asked
    assert all(row.system_message == "Count well." and len(row.history) == 2 for row in asked)
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "no training row shares its question with held-out rows" in report
    assert "Assistant: Yes" in report
