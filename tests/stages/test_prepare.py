"""prepare: examples of both splits, a summary, and a refusal of data that changed since the plan."""

import json

import pytest

from lorapar.config import DataConfig
from lorapar.data import data_digest, load_examples
from lorapar.errors import BadInputError, IntegrityError
from lorapar.records import Example, read_json, read_records
from lorapar.store import file_sha256

SIZES = {"system1_train": 6, "system1_heldout": 3, "system2_train": 5, "system2_heldout": 2}
READER = {"model": {"name": "builtin:tiny"}, "prompts": {}}
"""Who will read the rows, and how they are asked."""


def test_the_task_mix(kit, tmp_path):
    data = {"task_mix": SIZES}
    metrics, out = kit.run("prepare", tmp_path, {**READER, "data": data, "seed": 1})
    assert metrics == {"rows_train": 11.0, "rows_heldout": 5.0, "rows_left_out": 0.0}
    rows = list(read_records(out / "examples" / "examples.jsonl", Example))
    assert rows == load_examples(DataConfig.model_validate(data), seed=1)
    assert read_json(out / "examples" / "summary.json") == {
        "source": "task-mix",
        "digest": data_digest(DataConfig.model_validate(data)),
        "splits": {
            "train": {"rows": 11, "with_reference": 11, "known_systems": {"system1": 6, "system2": 5}},
            "heldout": {"rows": 5, "with_reference": 5, "known_systems": {"system1": 3, "system2": 2}},
        },
        "left_out": 0,
        "left_out_first": [],
        "omissions": [],
    }


@pytest.fixture
def file(tmp_path):
    """Three good rows and a repeated one."""
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"q{number % 3}", "answer": "a"} for number in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_left_out_are_counted_and_said(kit, tmp_path, file):
    notes = kit.Notes()
    data = {"source": str(file), "bad_rows": "leave_out", "heldout": 1}
    settings = {**READER, "data": data, "seed": 1}
    metrics, out = kit.run("prepare", tmp_path / "out", settings, progress=notes, rewarded=False)
    assert metrics == {"rows_train": 2.0, "rows_heldout": 1.0, "rows_left_out": 1.0}
    recognised, left_out, no_reference = notes.lines
    assert recognised == f"{file} is recognised as questions and answers"
    assert left_out == (
        f"1 of 4 rows left out: data.bad_rows is leave_out, the first: {file}:4: asks the same question as {file}:1; "
        "mend them"
    )
    assert "RL has nothing to reward" in no_reference
    summary = read_json(out / "examples" / "summary.json")
    assert summary["left_out"] == len(summary["left_out_first"]) == 1
    assert summary["splits"]["train"]["with_reference"] == 0


def test_data_that_changed_since_the_plan_is_refused(kit, tmp_path, file):
    config = DataConfig(source=str(file), bad_rows="leave_out", heldout=1)
    planned = config.model_copy(update={"digest": data_digest(config)})
    settings = {**READER, "data": planned.model_dump(), "seed": 1}
    kit.run("prepare", tmp_path / "before", settings, rewarded=False)
    file.write_text(file.read_text() + '{"question": "q4", "answer": "a"}\n')
    with pytest.raises(IntegrityError, match=r"rows\.jsonl has changed since the run was planned; run it again"):
        kit.run("prepare", tmp_path / "after", settings)


def test_what_the_chat_template_does_to_rows_is_said_and_changes_no_output(kit, tmp_path, file):
    """Votes on the same rows stay valid whatever model is tuned."""
    data = {"source": str(file), "bad_rows": "leave_out", "heldout": 1}
    template = "{% for m in messages %}{{ m.role + ': ' + (m.content | upper) }}{% endfor %}"
    wanting = {"model": {"name": "builtin:tiny", "chat_template": template}, "prompts": {"system2": None}}
    with pytest.raises(BadInputError, match=r"row \w+: the chat template of builtin:tiny changes .* question: 'q0'"):
        kit.run("prepare", tmp_path / "lost", {**wanting, "data": data, "seed": 1})
    keeping = template.replace("upper", "trim")
    notes, digests = kit.Notes(), []
    other = {**wanting, "model": {"name": "builtin:tiny", "chat_template": keeping}}
    for name, reader in (("before", READER), ("after", other)):
        _, out = kit.run(
            "prepare", tmp_path / name, {**reader, "data": data, "seed": 1}, progress=notes, rewarded=False
        )
        digests.append(file_sha256(out / "examples" / "examples.jsonl"))
    assert digests[0] == digests[1]
    assert any("so the end token <|im_end|> is learned after it" in line for line in notes.lines)


def test_a_run_that_comes_to_rl_ends_where_nothing_could_be_rewarded(kit, tmp_path, file):
    data = {"source": str(file), "bad_rows": "leave_out", "heldout": 1}
    with pytest.raises(BadInputError, match=r"RL has nothing to reward: name data\.columns\.reference"):
        kit.run("prepare", tmp_path / "out", {**READER, "data": data, "seed": 1})


def test_rows_behind_the_limit_without_a_reference_and_blank_texts_are_said(kit, tmp_path):
    path, notes = tmp_path / "rows.jsonl", kit.Notes()
    rows = [{"question": f"q{n}", "answer": "a", "reference": "nan" if n % 2 else "a"} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {**READER, "data": {"source": str(path), "limit": 4, "heldout": 1}, "seed": 1}
    kit.run("prepare", tmp_path / "out", settings, progress=notes)
    assert notes.lines == [
        f"{path} is recognised as questions and answers",
        "data.limit is 4: the rows behind them are not read",
        "2 cells of 'reference' hold a text such as nan or <NA> and count as empty",
        "WARNING: 2 of 4 rows have no reference answer: RL leaves them out and their accuracy cannot be measured; name "
        "data.columns.reference or reference_pattern",
    ]
