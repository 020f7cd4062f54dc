"""plan: number formats that are `auto` are settled once, and a stage sees only what they came to."""

from __future__ import annotations

import json

import pytest

from lorapar.config import RunConfig, load_config
from lorapar.errors import BadInputError
from lorapar.local.single import StageOptions, run_single
from lorapar.progress import Silent
from lorapar.records import digest_of
from lorapar.stages.contract import StageCall, run_stage
from lorapar.stages.plan import Settings, make_plan
from lorapar.stages.plan_file import Plan
from tests.notes import Notes
from tests.processors import pretend_cpu

OPEN = ["model.dtype=auto", "model.autocast=auto", "teachers=[{name: a}, {name: b, dtype: float16}]"]
READ_THE_MODEL = ("init", "score-system1", "sft", "rl", "publish", "evaluate")


@pytest.fixture
def cpu(monkeypatch):
    """Makes torch say whether this machine's CPU computes bfloat16 natively."""

    def use(*, native: bool) -> None:
        pretend_cpu(monkeypatch, {"avx512_bf16": native})

    return use


def config(*overrides: str) -> RunConfig:
    return load_config(preset="tiny", overrides=[*OPEN, *overrides])


def key(plan: Plan, node: str) -> str:
    return digest_of(plan.sections[node])


def test_every_stage_is_handed_what_auto_came_to(cpu) -> None:
    plans = {}
    for native in (False, True):
        cpu(native=native)
        plans[native] = make_plan(config())
        assert '"auto"' not in json.dumps(plans[native].sections)
    assert (plans[True].config.model.dtype, plans[True].config.model.autocast) == ("bfloat16", "bfloat16")
    assert (plans[False].config.model.dtype, plans[False].config.model.autocast) == ("float32", "none")
    assert [teacher.dtype for teacher in plans[False].config.teachers] == ["float32", "float16"]
    for node in (*READ_THE_MODEL, "vote-first"):
        assert key(plans[False], node) != key(plans[True], node), node
    assert key(plans[False], "partition") == key(plans[True], "partition"), "it reads no model"


@pytest.mark.parametrize("native", [False, True])
def test_a_format_that_is_set_is_the_same_everywhere(cpu, native) -> None:
    cpu(native=native)
    given = ["model.dtype=bfloat16", "model.autocast=bfloat16", "teachers=[{name: a, dtype: bfloat16}]"]
    plan = make_plan(config(*given))
    assert (plan.config.model.dtype, plan.config.model.autocast) == ("bfloat16", "bfloat16")
    assert plan.config.teachers[0].dtype == "bfloat16"
    assert plan.number_format is None
    cpu(native=True)
    settled = make_plan(config("teachers=[{name: a}]"))
    assert settled.sections == plan.sections, "auto is part of a digest as what it came to"


def test_the_demo_is_what_it_was_where_bfloat16_is_native(cpu) -> None:
    cpu(native=True)
    plan = make_plan(load_config(preset="demo"))
    assert {plan.config.model.dtype, plan.config.model.autocast} == {"bfloat16"}
    assert {teacher.dtype for teacher in plan.config.teachers} == {"bfloat16"}
    cpu(native=False)
    plan = make_plan(load_config(preset="demo"))
    assert (plan.config.model.dtype, plan.config.model.autocast) == ("float32", "none")
    assert {teacher.dtype for teacher in plan.config.teachers} == {"float32"}


def test_the_format_of_an_endpoint_is_left_alone(cpu) -> None:
    cpu(native=False)
    served = 'teachers=[{name: a, backend: openai, endpoint: "http://127.0.0.1:9/v1", model: served}]'
    plan = make_plan(config("model.dtype=float32", "model.autocast=none", served))
    assert plan.number_format is None
    kept = plan.model_dump(mode="json")["config"]
    assert RunConfig.model_validate(kept) == plan.config
    kept["teachers"][0]["dtype"] = "bfloat16"  # as plans of earlier versions say it
    RunConfig.model_validate(kept)
    kept["teachers"][0]["dtype"] = "float32"
    with pytest.raises(ValueError, match="dtype does nothing with backend openai"):
        RunConfig.model_validate(kept)


def test_the_stage_says_it_and_writes_it_down(kit, cpu, tmp_path) -> None:
    cpu(native=False)
    message = kit.Notes()
    _, out = kit.run("plan", tmp_path, {"config": config().model_dump(mode="json")}, progress=message)
    assert "number format float32: this CPU only emulates bfloat16" in message.lines
    assert json.loads((out / "plan" / "plan.json").read_text())["number_format"].startswith("float32: ")


def test_a_stage_alone_settles_it_too(cpu, tmp_path) -> None:
    cpu(native=False)
    options = StageOptions.parse("init", [], [f"adapter={tmp_path / 'adapter'}"], [], None)
    record = run_single(config(), options, Silent())
    assert (record.settings["model"]["dtype"], record.settings["model"]["autocast"]) == ("float32", "none")


def test_the_stage_says_what_the_data_are_recognised_as(kit, tmp_path) -> None:
    path, notes = tmp_path / "rows.csv", kit.Notes()
    path.write_text("instruction;input;output\n" + "".join(f"Double it.;{n};{2 * n}\n" for n in range(9)))
    chosen = load_config(preset="tiny", overrides=[f"data.source={path}"])
    kit.run("plan", tmp_path / "out", {"config": chosen.model_dump(mode="json")}, progress=notes)
    assert [line for line in notes.lines if line.startswith("data: ")] == [
        f"data: {path} is read with semicolons between its values, as its header has them and no comma",
        f"data: {path} is recognised as instructions (Alpaca): 'instruction' with 'input' below it is the question, "
        "'output' the answer; its answers are short, and are the references, too, with "
        "data.columns.question=instruction data.columns.answer=output data.columns.reference=output",
    ]


def test_columns_that_nothing_is_recognised_by_end_plan(kit, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"passage": "q", "label": "a"}\n')
    chosen = load_config(preset="tiny", overrides=[f"data.source={path}"])
    with pytest.raises(BadInputError, match=r"rows\.jsonl has no columns that say what is asked and answered"):
        kit.run("plan", tmp_path / "out", {"config": chosen.model_dump(mode="json")})


def test_prepare_is_told_which_rows_benchmarks_ask_and_not_how(tmp_path) -> None:
    rows = tmp_path / "gsm8k.jsonl"
    rows.write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    plans = []
    for more in ("", ", max_new_tokens: 9", ", limit: 1"):
        chosen = load_config(preset="tiny", overrides=[f"evaluate.benchmarks=[{{task: gsm8k, data: {rows}{more}}}]"])
        plans.append(make_plan(chosen))
    assert plans[0].config.data.benchmarks[0].digest
    assert [key(plan, "prepare") == key(plans[0], "prepare") for plan in plans] == [True, True, False]
    assert key(plans[1], "evaluate") != key(plans[0], "evaluate")


@pytest.mark.parametrize(
    ("phases", "node"), [("[sft, rl]", "rl"), ("[rl, sft]", "rl"), ("[sft]", "sft"), ("[rl]", "rl")]
)
def test_the_node_that_trains_last_keeps_the_candidates_of_a_pick(phases: str, node: str) -> None:
    overrides = [f"phases={phases}", "data.development=4"]
    best = ["publish.pick=best", "publish.candidates=5", "evaluate.limit=3"]
    last, picked = (make_plan(load_config(preset="tiny", overrides=[*overrides, *more])) for more in ([], best))
    changed = {name for name in last.sections if key(last, name) != key(picked, name)}
    assert changed == {node, "publish", "evaluate"}, "evaluate for its limit alone"
    assert picked.sections[node]["candidates"] == 5
    message = picked.sections["publish"]
    assert (message["publish"]["candidates"], message["evaluate"]["limit"], message["answers"]) == (5, None, "exact")
    assert not {"publish", "evaluate", "answers", "candidates"} & {*last.sections["publish"]}
    assert "candidates" not in last.sections[node]


def test_labels_by_chance_go_with_the_seed_and_all_others_do_not() -> None:
    """Another seed re-runs the tally where it assigns the rows by chance, and nowhere else."""
    for labels, moves in (("votes", False), ("data", False), ("random", True)):
        one, other = (make_plan(config(f"voting.labels={labels}", f"seed={seed}")) for seed in (1, 2))
        assert [key(one, node) != key(other, node) for node in ("tally-first", "tally")] == [moves, moves], labels
        assert ("seed" in one.sections["tally"]) is moves


def test_settings_without_effect_are_reported(tmp_path) -> None:
    message = Notes()
    phases = "phases=[{system: system1, method: sft, settings: {max_steps: 3}}, {system: system2, method: rl}]"
    (tmp_path / "plan").mkdir()
    asked = Settings(config=load_config(preset="tiny", overrides=[phases]))
    run_stage("plan", StageCall(asked, {}, {"plan": tmp_path / "plan"}, tmp_path, progress=message))
    assert (
        "settings: phases[0].settings: max_steps: no effect, the section sft says the same; leave out" in message.lines
    )
