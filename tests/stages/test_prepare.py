"""prepare: examples of both splits, a summary, and a refusal of data that changed since the plan."""

import json

import pytest

from lorapar.capture import Capture, request_digest
from lorapar.capture.records import Feedback
from lorapar.config import DataConfig, RunConfig
from lorapar.data import data_digest, load_examples
from lorapar.errors import BadInputError, IntegrityError
from lorapar.records import Example, read_json, read_records, write_json
from lorapar.registry import Registry
from lorapar.registry.lineage import data_facts
from lorapar.registry.overview import trained_on
from lorapar.stages.plan import resolve_config, stage_settings
from lorapar.store import file_sha256, open_store
from tests.capture.conftest import NOW, asked
from tests.serving.conftest import adapter_files

SIZES = {"system1_train": 6, "system1_heldout": 3, "system2_train": 5, "system2_heldout": 2}
READER = {"model": {"name": "builtin:tiny"}, "prompts": {}}
"""Who will read the rows, and how they are asked."""


def test_the_task_mix(kit, tmp_path):
    data = {"task_mix": SIZES}
    metrics, out = kit.run("prepare", tmp_path, {**READER, "data": data, "seed": 1})
    assert metrics == {"rows_train": 11.0, "rows_heldout": 5.0, "rows_left_out": 0.0, "rows_overlapping": 0.0}
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


def test_rows_left_out_are_counted_and_reported(kit, tmp_path, file):
    notes = kit.Notes()
    data = {"source": str(file), "bad_rows": "leave_out", "heldout": 1}
    settings = {**READER, "data": data, "seed": 1}
    metrics, out = kit.run("prepare", tmp_path / "out", settings, progress=notes, rewarded=False)
    assert metrics == {"rows_train": 2.0, "rows_heldout": 1.0, "rows_left_out": 1.0, "rows_overlapping": 0.0}
    recognised, left_out, no_reference = notes.lines
    assert recognised == f"{file} is recognised as questions and answers"
    assert left_out == (
        f"1 of 4 rows left out: data.bad_rows is leave_out, the first: {file}:4: asks the same question as {file}:1; "
        "fix them"
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


def test_what_the_chat_template_does_to_rows_is_reported_and_changes_no_output(kit, tmp_path, file):
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


def test_rows_behind_the_limit_without_a_reference_and_blank_texts_are_reported(kit, tmp_path):
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


@pytest.mark.parametrize(
    ("rewards", "tests", "message"),
    [
        ({"quality": {"judge": {"endpoint": "http://judge:8000/v1", "model": "m"}}}, None, None),
        ({"passes_tests": 1.0}, "assert add(1, 2) == 3", None),
        ({"exact_answer": 1.0}, "assert add(1, 2) == 3", "RL has nothing to reward"),
        ({"passes_tests": 1.0}, None, "RL has nothing to reward"),
    ],
)
def test_rows_without_a_reference_are_enough_for_judges_and_tests(kit, tmp_path, rewards, tests, message):
    path, notes = tmp_path / "rows.jsonl", kit.Notes()
    rows = [{"question": f"q{n}", "answer": "a", "tests": tests} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig(data={"source": str(path), "heldout": 1}, rl={"rewards": rewards}, **READER)
    settings = stage_settings(config, "prepare", {}).model_dump(mode="json")
    if message is None:
        kit.run("prepare", tmp_path / "out", settings, progress=notes)
        assert not [line for line in notes.lines if "reference answer" in line]
    else:
        with pytest.raises(BadInputError, match=message):
            kit.run("prepare", tmp_path / "out", settings)


def test_a_run_without_rl_needs_no_reference(kit, tmp_path, file):
    notes = kit.Notes()
    data = {"source": str(file), "bad_rows": "leave_out", "heldout": 1}
    config = RunConfig(data=data, phases=["sft"], **READER)
    settings = stage_settings(config, "prepare", {}).model_dump(mode="json")
    kit.run("prepare", tmp_path / "out", settings, progress=notes)
    (told,) = [line for line in notes.lines if "have no reference answer" in line]
    assert "rows have no reference answer: their accuracy cannot be measured; name" in told


LEAKED = "A baker sells nine loaves every morning and twice as many in the evening, how many loaves in a week?"


@pytest.fixture
def benchmark(tmp_path):
    """GSM8K's settings with rows of their own, one of which the training rows repeat."""
    path = tmp_path / "gsm8k.jsonl"
    rows = [
        {"question": LEAKED, "answer": "#### 189"},
        {"question": "Is this asked by nobody else?", "answer": "#### 1"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"task": "gsm8k", "data": str(path)}


def leaking(tmp_path, **more):
    """Settings of rows of which one asks what the benchmark asks."""
    path = tmp_path / "rows.jsonl"
    rows = [{"id": "leak", "question": f"Please solve: {LEAKED}", "answer": "189", "reference": "189"}]
    rows += [{"id": str(n), "question": f"{n}+{n}?", "answer": str(2 * n), "reference": str(2 * n)} for n in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": str(path), "heldout": 2, **more}


@pytest.mark.parametrize("decontaminate", [True, False])
def test_rows_that_a_benchmark_asks_are_left_out_of_training_or_only_said(kit, tmp_path, benchmark, decontaminate):
    notes = kit.Notes()
    data = leaking(tmp_path, benchmarks=[benchmark], decontaminate=decontaminate)
    metrics, out = kit.run("prepare", tmp_path / "out", {**READER, "data": data, "seed": 1}, progress=notes)
    ids = {row.id for row in read_records(out / "examples" / "examples.jsonl", Example)}
    assert metrics["rows_overlapping"] == 1
    assert metrics["rows_train"] == 8 - decontaminate
    assert ("leak" in ids) is not decontaminate
    summary = read_json(out / "examples" / "summary.json")
    assert [(one["example_id"], one["measure"]) for one in summary["overlap"]["rows"]] == [("leak", "gsm8k")]
    (line,) = [line for line in notes.lines if "share words" in line]
    assert line.startswith(
        "1 of 8 training rows left out" if decontaminate else "1 of 8 training rows are trained on anyway"
    )
    assert "(gsm8k 1), the first: row leak shares 'a baker sells nine loaves every morning and twice as" in line
    assert summary["omissions"][0]["count"] == 1
    assert summary["overlap"]["left_out"] is decontaminate


def test_rows_that_held_out_rows_ask_are_left_out_of_training(kit, tmp_path):
    path = tmp_path / "rows.jsonl"
    asked = [LEAKED, f"Again: {LEAKED}", *(f"{n}+{n}?" for n in range(20))]
    path.write_text("".join(json.dumps({"question": one, "answer": "1", "reference": "1"}) + "\n" for one in asked))
    found = set()
    for seed in range(12):
        settings = {**READER, "data": {"source": str(path), "heldout": 11}, "seed": seed}
        metrics, out = kit.run("prepare", tmp_path / f"out-{seed}", settings)
        rows = list(read_records(out / "examples" / "examples.jsonl", Example))
        apart = sum(row.split == "heldout" for row in rows if LEAKED in row.question) == 1
        assert metrics["rows_overlapping"] == apart
        assert metrics["rows_heldout"] == 11
        found.add(apart)
    assert found == {True, False}, "some seeds put both on one side"


def test_development_rows_are_apart_from_what_is_trained_on_and_what_is_evaluated(kit, tmp_path, benchmark):
    path = tmp_path / "rows.jsonl"
    other = "An orchard has forty trees with ninety apples each, and half of them fall before the harvest, how many?"
    asked = [LEAKED, other, f"Again: {other}", *(f"{n}+{n}?" for n in range(20))]
    path.write_text("".join(json.dumps({"question": one, "answer": "1", "reference": "1"}) + "\n" for one in asked))
    found = set()
    for seed in range(12):
        data = {"source": str(path), "heldout": 4, "benchmarks": [benchmark]}
        splits = {}
        for development in (0, 8):
            settings = {**READER, "data": {**data, "development": development}, "seed": seed}
            metrics, out = kit.run("prepare", tmp_path / f"{seed}-{development}", settings)
            rows = list(read_records(out / "examples" / "examples.jsonl", Example))
            splits[development] = {row.question: row.split for row in rows}
        assert LEAKED not in splits[8] or splits[8][LEAKED] == "heldout", "a benchmark asks it"
        held = {
            development: {q for q, split in one.items() if split == "heldout"} for development, one in splits.items()
        }
        assert held[0] == held[8], "the rows held out are the same ones"
        sides = {split for question, split in splits[8].items() if other in question}
        assert len(sides) == 1, "never on two sides"
        assert metrics["rows_development"] == list(splits[8].values()).count("development") >= 6
        found |= sides
    assert found == {"train", "heldout", "development"}


def test_development_rows_of_the_task_mix_share_no_sum_with_training_rows(kit, tmp_path):
    plain, apart = (
        read_records(
            kit.run("prepare", tmp_path / str(size), {**READER, "data": {"development": size}, "seed": 3})[1]
            / "examples" / "examples.jsonl",
            Example,
        )
        for size in (0, 60)
    )  # fmt: skip
    plain, apart = ({row.id: row for row in rows} for rows in (plain, apart))
    assert {id: row.model_copy(update={"split": plain[id].split}) for id, row in apart.items()} == plain
    chosen = [row for row in apart.values() if row.split == "development"]
    assert 55 <= len(chosen) <= 60
    assert {row.known_system for row in chosen} == {"system1", "system2"}
    assert all(plain[row.id].split == "train" for row in chosen)
    trained = {row.answer for row in apart.values() if row.split == "train" and row.known_system == "system2"}
    assert not trained & {row.answer for row in chosen if row.known_system == "system2"}


def test_a_run_that_would_train_on_nothing_else_ends(kit, tmp_path, benchmark):
    path = tmp_path / "rows.jsonl"
    rows = [{"question": LEAKED, "answer": "189", "reference": "1"}, {"question": "Other?", "answer": "1"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(8):
        settings = {**READER, "data": {"source": str(path), "heldout": 1, "benchmarks": [benchmark]}, "seed": seed}
        try:
            kit.run("prepare", tmp_path / f"out-{seed}", settings, rewarded=False)
        except BadInputError as error:
            assert "data.decontaminate: every training row shares its question with what is evaluated" in str(error)  # noqa: PT017
            return
    pytest.fail("no seed trained on the leaked row")


def test_limits_in_tokens_are_those_of_the_model(kit, tmp_path):
    data = leaking(tmp_path, length={"max_tokens": 12})
    metrics, out = kit.run("prepare", tmp_path / "out", {**READER, "data": data, "seed": 1})
    assert metrics["rows_left_out"] == 1
    assert "leak" not in {row.id for row in read_records(out / "examples" / "examples.jsonl", Example)}
    line = read_json(out / "examples" / "summary.json")["omissions"][0]["why"]
    assert line == "of their length: 1 by max_tokens 12"


def test_several_sources_are_summed_up(kit, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "1+1?", "completion": "2", "reference": "2"}\n{"prompt": "Hi", "completion": "Ho"}\n')
    single = leaking(tmp_path)
    data = {"sources": [{"source": single["source"]}, {"source": str(other)}], "heldout": 2}
    metrics, out = kit.run("prepare", tmp_path / "out", {**READER, "data": data, "seed": 1})
    assert (metrics["rows_train"], metrics["rows_heldout"], metrics["rows_left_out"]) == (9, 2, 1)
    summary = read_json(out / "examples" / "summary.json")
    assert summary["source"] == f"{single['source']}, {other}"
    assert [(one["rows"], one["repeated"], one["kept"]) for one in summary["sources"]] == [(10, 0, 10), (2, 1, 1)]


def test_rows_of_a_capture_are_named_in_the_lineage_by_digests(kit, tmp_path):
    """Their ids too are digests, so that no request's id is in a run's artifacts, and a deletion finds its versions."""
    capture = Capture(open_store(tmp_path / "registry"), "support")
    for number, word in enumerate(("shoes", "parcels", "jackets")):
        capture.write([asked(f"request-{number}", f"What do your {word} cost?", f"{number} euros")], NOW)
        capture.write([Feedback(request_id=f"request-{number}", captured_at=NOW, good=number != 1)], NOW)
    values = {"data": {"source": "capture:support", "heldout": 1}, "registry": {"address": str(tmp_path / "registry")}}
    data = resolve_config(RunConfig.model_validate(values), ("data",)).data
    notes = kit.Notes()
    settings = {**READER, "data": data, "seed": 1}
    metrics, out = kit.run("prepare", tmp_path / "out", settings, progress=notes, rewarded=False)
    assert (metrics["rows_train"], metrics["rows_heldout"], metrics["rows_left_out"]) == (1.0, 1.0, 1.0)
    assert any(line.startswith("1 of 3 captured requests left out: no person has praised") for line in notes.lines)
    facts = data_facts(out / "examples")
    digests = {request_digest("request-0"), request_digest("request-2")}
    assert set(facts["captures"]["support"]["requests"].split()) == digests
    assert {row.id for row in read_records(out / "examples" / "examples.jsonl", Example)} == digests
    assert "request-0" not in (out / "examples" / "examples.jsonl").read_text(encoding="utf-8")
    registry = Registry(open_store(tmp_path / "registry"))
    folder = adapter_files(tmp_path / "made", "weights")
    write_json(folder / "lineage.json", {"data": facts})
    registry.publish("task", folder)
    traces = trained_on(registry, "support", {request_digest("request-0"): "a", request_digest("request-1"): "b"})
    assert traces.versions == {"a": ["task@1"], "b": []}
