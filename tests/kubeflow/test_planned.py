"""The pipeline's parameters: what they set, what is wrong with them, and how votes are shared out."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from typing import Any
from unittest.mock import ANY

import pytest
from google.protobuf import json_format, struct_pb2

from lorapar.config import SftConfig, load_config
from lorapar.data import resolve_data
from lorapar.errors import BadInputError
from lorapar.kubeflow.checks import check_nodes
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.parameters import PARAMETERS, run_config
from lorapar.kubeflow.placement import Placement
from lorapar.kubeflow.planned import Lane, PlanCall, lanes, plan_page
from lorapar.kubeflow.tasks import TASKS, Takes, read_takes
from lorapar.stages.graph import GRAPH
from lorapar.training.shares import share_on_nodes
from tests.processors import pretend_cpu

OTHERWISE = {"plan", "vote-first", "report"}
"""Tasks that are told their settings in another way, or have none."""
TOLD = ("settings", "vote_first_lanes", "vote_rest_accelerators", "vote_pool", "changed", "examples_digest")


def planned(cluster, **values):
    """The output parameters of the task `plan`."""
    values = {parameter.name: parameter.default for parameter in PARAMETERS} | {"config": "preset:tiny"} | values
    values |= {"store": cluster.address, "run": "run-1", "vote_accelerators": "1"}
    out = cluster.run("plan", values, ["examples", "summary"], TOLD)
    return out.parameter_values


def accelerators_told(placement: Placement | None) -> dict[str, Any]:
    """What a package tells `plan` about the accelerators of the other tasks."""
    spec = build_package({}, placement).spec
    (task,) = (
        one["dag"]["tasks"]["plan"]
        for one in spec["components"].values()
        if "plan" in one.get("dag", {"tasks": ()})["tasks"]
    )
    return task["inputs"]["parameters"]["accelerators"]["runtimeValue"]["constant"]


def page(cluster) -> str:
    """The Markdown that the last task left for Kubeflow's pages."""
    return (cluster.root / f"task-{cluster.count}" / "out" / "summary").read_text(encoding="utf-8")


def handed(cluster, given, task: str):
    """The settings whose digest `plan` hands a task."""
    digest = json.loads(given["settings"].string_value)[task]
    return json.loads(cluster.store.read(f"settings/{digest}.json"))


def test_plan_hands_each_task_its_own_settings(cluster) -> None:
    given = planned(cluster, theta="0.5", base_model="builtin:tiny", adapter_name="mine", overrides="rl.max_steps=1\n")
    assert handed(cluster, given, "partition")["partition"]["partition"]["theta"] == 0.5
    assert handed(cluster, given, "publish")["publish"]["name"] == "mine"
    assert handed(cluster, given, "rl")["rl"]["rl"]["max_steps"] == 1
    assert "rl" not in handed(cluster, given, "sft")["sft"]
    assert handed(cluster, given, "gate") == {"gate": {"gate": ANY}, "promote": {}}
    assert list(handed(cluster, given, "vote-rest")) == ["tally-first", "vote-rest", "tally"]
    lanes = [dict(one.struct_value.items()) for one in given["vote_first_lanes"].list_value.values]
    asked = [json.loads(cluster.store.read(f"settings/{lane['settings']}.json"))["vote-first"] for lane in lanes]
    assert [one["asked"] for one in asked] == [["forward"], ["preposition"]]
    assert {lane["accelerators"] for lane in lanes} == {"0"}
    assert set(json.loads(given["settings"].string_value)) == {task.name for task in TASKS} - OTHERWISE
    assert given["changed"].bool_value is True
    manifest = cluster.store.read(f"manifests/{given['examples_digest'].string_value}.json")
    assert json.loads(manifest)["kind"] == "prepare.examples"


@pytest.mark.parametrize(
    ("groups", "native", "dtype"),
    [
        ({}, False, "bfloat16"),
        ({"score": {"count": 0}}, False, "bfloat16"),
        ({"others": {"count": 0}}, False, "float32"),
        ({"others": {"count": 0}}, True, "bfloat16"),
    ],
)
def test_a_format_goes_by_the_accelerators_of_the_tasks(cluster, monkeypatch, groups, native, dtype) -> None:
    pretend_cpu(monkeypatch, {"avx512_bf16": native})
    reported = accelerators_told(Placement.model_validate({"groups": groups}))
    given = planned(cluster, base_model="builtin:tiny", overrides="model.dtype=auto\n", accelerators=reported)
    assert handed(cluster, given, "sft")["sft"]["model"]["dtype"] == dtype
    assert f"- **number format**: {dtype}" in page(cluster)


def test_long_settings_make_no_longer_parameters(cluster) -> None:
    """What a few-shot template adds would stand in Kubeflow's database dozens of times."""

    def size(few_shot: int) -> int:
        shots = [
            {"question": f"{'long ' * 50}{number}", "answer": "x", "system": "system1"} for number in range(few_shot)
        ]
        teachers = [{"name": "a", "template": {"few_shot": shots}}, {"name": "b"}, {"name": "c"}]
        given = planned(cluster, teachers=json.dumps(teachers))
        return sum(value.ByteSize() for value in given.values())

    assert size(20) == size(0)


def test_the_page_of_plan_says_what_will_run_what_it_needs_and_how_often_is_asked(cluster) -> None:
    reported = accelerators_told(None)
    assert set(reported) == {"score-system1", "score-system2", "sft", "rl", "evaluate"}
    planned(cluster, adapter_name="mine", promote=False, accelerators=reported)
    text = page(cluster)
    assert text.startswith("# What will run: `mine`\n")
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) \| (.*) \|$", text, re.M))
    assert list(rows) == ["stage", *(node.name for node in GRAPH if node.stage != "plan")]
    assert re.match(r"trainer \| \d\.\d GB \| 1 nvidia.com/gpu \| ", rows["sft"])
    assert rows["gate"] == "client |  |  | "
    assert rows["vote-first"].endswith("| none | 2 tasks")
    assert rows["tally"] == "vllm |  |  | in the task vote-rest"
    # Two of three teachers read each of the preset's rows for training, the third only what they leave undecided.
    config = load_config(preset="tiny")
    trained_on = config.data.task_mix.system1_train + config.data.task_mix.system2_train
    assert f"- **teachers**: {2 * trained_on} to {3 * trained_on} calls: of 3, 2 read every row, 1 more" in text
    assert "- **promotion**: off\n" in text


def test_the_page_of_plan_counts_the_accelerators_of_a_vote() -> None:
    config = load_config(preset="tiny")
    lane = {count: Lane("vote-first", settings={}, accelerators=count) for count in "02"}
    assert "| 4 | 3 tasks |" in plan_page(config, {"vote-first": [lane["2"], lane["2"], lane["0"]]}, {})
    assert "| none | 1 task |" in plan_page(config, {"vote-rest": [lane["0"]]}, {})


def test_the_page_of_plan_says_how_many_processes_the_accelerators_make() -> None:
    held = {"score-system1": Takes(count=2), "rl": Takes(count=1), "evaluate": Takes(count=4)}
    page = plan_page(load_config(preset="tiny", overrides=["processes=3"]), {}, held)
    rows = {line.split(" | ")[0]: line for line in page.splitlines() if line.startswith("| ")}
    assert rows["| score-system1"].endswith("| 2 nvidia.com/gpu | processes: 2, each with a part of the rows |")
    assert rows["| evaluate"].endswith("processes: 3, each with a part of the rows |")
    assert "processes" not in rows["| rl"]


def test_the_page_of_plan_has_the_terms_of_the_memory_and_a_start_that_may_collapse() -> None:
    held = {"sft": Takes(count=1)}
    page = plan_page(load_config(preset="tiny", overrides=["adapter.init=pissa"]), {}, held)
    (start,) = [line for line in page.splitlines() if line.startswith("- **start**")]
    assert "adapter.init pissa: with RL its adapters were reported to collapse (arXiv 2512.23165)" in start
    terms = {line.partition("**: ")[0]: line for line in page.splitlines() if line.startswith("- **memory of ")}
    assert list(terms) == [f"- **memory of {stage}, GB" for stage in ("score", "sft", "rl")]
    assert "context 0.50" in terms["- **memory of sft, GB"], "on its accelerator"
    assert "context 0.65" in terms["- **memory of rl, GB"], "on a CPU, as it takes none"
    assert all(line.endswith("; fits one T4") for line in terms.values())
    plain = plan_page(load_config(preset="tiny", overrides=["phases=[sft]"]), {}, held)
    assert "**start**" not in plain
    assert "memory of rl" not in plain


def test_the_page_of_plan_counts_a_process_s_part_of_a_sharded_base(tmp_path) -> None:
    sizes = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "num_attention_heads": 32}))
    tuned = ["sft.batch_size=1", "sft.gradient_accumulation=8", "sharding=fsdp2"]
    config = load_config(preset="tiny", overrides=[f"model.name={tmp_path}", "model.dtype=bfloat16", *tuned])
    sizes = []
    for held in (Takes(count=1), Takes(count=4), Takes(count=4, nodes=2, processes=4)):
        (row,) = [one for one in plan_page(config, {}, {"sft": held}).splitlines() if one.startswith("| sft ")]
        sizes.append(float(row.split(" | ")[2].removesuffix(" GB")))
    one, four, eight = sizes
    assert one - four == pytest.approx(13.5 * 3 / 4 - 1.5, abs=0.3)  # three quarters, but for what is gathered
    assert four - eight == pytest.approx(13.5 / 8, abs=0.2)


def test_the_page_of_plan_says_what_each_process_of_several_nodes_does() -> None:
    held = {"sft": Takes(nodes=2, processes=2, count=2)}
    tuned = ["sft.batch_size=4", "sft.gradient_accumulation=4"]
    reported = plan_page(load_config(preset="tiny", overrides=tuned), {}, held)
    (row,) = [line for line in reported.splitlines() if line.startswith("| sft ")]
    assert "by a TrainJob: 4 processes, 2 on each of 2 nodes, each with batch_size 4, gradient_accumulation 1" in row
    assert "| 2 nodes x 2 processes, 2 nvidia.com/gpu each |" in row


@pytest.mark.parametrize(
    ("reported", "answer"),
    [
        ({"sft": "2 nodes x 2 processes"}, "accelerators: .*: the package and the image of `plan` must be of the same"),
        ({"sft": {"nodes": 2.5}}, "accelerators: nodes: .*valid integer"),
        ({"sft": {"gpus": 1}}, "accelerators: gpus: "),
        ("2 nodes", "accelerators: "),
    ],
)
def test_a_package_of_another_version_is_refused_with_what_is_wrong(reported, answer) -> None:
    with pytest.raises(BadInputError, match=answer):
        read_takes(reported)


def test_numbers_that_became_fractions_on_their_way_are_whole_again() -> None:
    """Kubeflow keeps a constant as google.protobuf.Value, which knows no integers."""
    takes = Takes(count=8, accelerator="amd.com/gpu", nodes=2, processes=8)
    travelled = json_format.MessageToDict(json_format.ParseDict({"rl": takes.dump()}, struct_pb2.Struct()))
    assert isinstance(travelled["rl"]["count"], float)
    assert read_takes(travelled) == {"rl": takes}


@pytest.mark.parametrize(
    ("overrides", "asked", "store", "answer"),
    [
        ([], {"sft": Takes(nodes=2)}, "/data/lorapar", "/data/lorapar is a folder, and sft trains on 2 nodes"),
        (
            ["sft.batch_size=3", "sft.gradient_accumulation=1"],
            {"sft": Takes(nodes=2)},
            "s3://bucket",
            "sft: batch_size 3 times gradient_accumulation 1 cannot be divided evenly among 2 nodes; make gradient_acc",
        ),
        (["processes=1"], {"rl": Takes(nodes=2, processes=4)}, None, "processes: 1 in all are fewer than one on each"),
        (["rl.rollouts=vllm"], {"rl": Takes(nodes=2)}, None, "rl.rollouts vllm samples in one process"),
        ([], {"rl": Takes(count=1)}, "/data/lorapar", None),
    ],
)
def test_what_several_nodes_cannot_train_is_refused_beforehand(overrides, asked, store, answer) -> None:
    config = load_config(preset="tiny", overrides=overrides)
    if answer is None:
        check_nodes(config, asked, store)
        return
    with pytest.raises(BadInputError, match=answer):
        check_nodes(config, asked, store)


def test_fewer_processes_train_on_each_node_where_a_step_has_fewer_parts() -> None:
    share, why = share_on_nodes(SftConfig(batch_size=1, gradient_accumulation=4), nodes=2, each=4, most=None)
    assert (share.processes, share.gradient_accumulation) == (4, 1)
    assert why.startswith("2 of 4 processes train on each node: batch_size 1 times gradient_accumulation 4")
    assert share_on_nodes(SftConfig(batch_size=1, gradient_accumulation=16), 2, 4, most=5)[0].processes == 4


def test_rows_that_cannot_be_read_here_are_not_counted(tmp_path, monkeypatch) -> None:
    """The client image has no pyarrow; `prepare`, which runs in another, reads them."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    source = tmp_path / "rows.parquet"
    source.write_bytes(b"PAR1")
    config = load_config(preset="tiny", overrides=[f"data.source={source}"])
    assert resolve_data(config.data).digest == hashlib.sha256(b"PAR1").hexdigest()
    assert "- **teachers**: 2 read every row, 1 more only undecided rows\n" in plan_page(config, {}, {})


def test_the_settings_may_lie_at_an_address_or_inline(tmp_path) -> None:
    assert run_config({"config": "name: inline\nseed: 3"}).seed == 3
    assert run_config({"config": "preset:tiny"}).name == "tiny"


WRONG = [
    ({"theta": "0,9"}, r"theta: must be a number in \(0, 1\] \(got '0,9'\)"),
    ({"theta": "1.5"}, r"theta: must lie in \(0, 1\] \(got 1.5\)"),
    ({"alpha": "-1"}, "alpha: "),
    ({"beta": "x"}, "beta: "),
    ({"adapter_name": "a b/c"}, "adapter_name: "),
    ({"teachers": "[{name: a, weigth: 2}]"}, "teachers: .*weigth.*weight"),
    ({"teachers": "{a: 1}"}, "teachers: expected names"),
    ({"overrides": "rl.learning_rat=1"}, "overrides: .*learning_rate"),
    ({"overrides": "rl.max_steps"}, "^overrides: rl.max_steps: write it as"),
    ({"config": "s3://no_bucket/mine.yaml"}, "^config: .*no_bucket"),
    ({"config": "preset:tinny"}, "config: .*'tiny'"),
    ({"config": "nonsense"}, "config: 'nonsense' is neither"),
    ({"config": "model: [1"}, "config.*not YAML"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[next(iter(values)) for values, _ in WRONG])
def test_a_wrong_value_names_its_parameter(values, message) -> None:
    with pytest.raises(BadInputError, match=message):
        run_config({"config": "preset:tiny", **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parallelism": 0}, "parallelism: "),
        ({"parallelism": 0.0}, "parallelism: .*, got 0$"),  # as Kubeflow passes a number on
        ({"gpu_pool": {"pool": 3.0}}, 'gpu_pool: .*, got {"pool": 3}$'),
        ({"promote": "yes"}, "promote"),
        ({"webhook": "hooks.example/x"}, "^webhook: expected an address"),
    ],
)
def test_wrong_values_of_plan_itself(cluster, values, message) -> None:
    with pytest.raises(BadInputError, match=message):
        planned(cluster, **values)


def test_hub_names_become_teachers() -> None:
    config = run_config({"config": "preset:tiny", "teachers": "OWNER/a, OWNER/b"})
    assert [(teacher.name, teacher.model) for teacher in config.teachers] == [
        ("OWNER-a", "OWNER/a"),
        ("OWNER-b", "OWNER/b"),
    ]


def call_of(config, parallelism: int) -> PlanCall:
    return PlanCall(config, gpu_pool={}, parallelism=parallelism, vote_accelerators="1")


def asked(lane) -> list[str]:
    return lane.settings["asked"]


@pytest.mark.parametrize(
    ("parallelism", "expected"),
    [(1, [["a", "b", "c"]]), (2, [["a", "c"], ["b"]]), (9, [["a"], ["b"], ["c"]])],
)
def test_a_round_is_shared_out_among_at_most_so_many_tasks(parallelism, expected) -> None:
    config = load_config(overrides=["teachers=[{name: a}, {name: b}, {name: c}, {name: d}]"])
    assert [asked(lane) for lane in lanes(config, call_of(config, parallelism), "vote-first")] == expected


MIXED = """teachers=[
  {name: here, backend: vllm, template: {style: chat, label_words: {system1: x, system2: y}}},
  {name: there, backend: openai, model: m, endpoint: "http://teacher:8000/v1",
   template: {style: chat, label_words: {system1: x, system2: y}}}]"""


@pytest.mark.parametrize(
    ("parallelism", "expected"),
    [(1, [(["here", "there"], "1")]), (2, [(["here"], "1"), (["there"], "0")])],
)
def test_a_vllm_teacher_takes_an_accelerator_and_an_endpoint_none(parallelism, expected) -> None:
    config = load_config(overrides=[MIXED, "voting.quorum=2"])
    found = [(asked(lane), lane.accelerators) for lane in lanes(config, call_of(config, parallelism), "vote-first")]
    assert found == expected


def test_the_second_round_is_one_task_with_an_accelerator_where_one_of_its_teachers_needs_it() -> None:
    for backend, accelerators in (("transformers", "0"), ("vllm", "1")):
        teachers = f"[{{name: a}}, {{name: b}}, {{name: c}}, {{name: d, backend: {backend}}}, {{name: e}}]"
        config = load_config(overrides=[f"teachers={teachers}", "voting.quorum=3"])
        (lane,) = lanes(config, call_of(config, 4), "vote-rest")
        assert (asked(lane), lane.accelerators) == (["d", "e"], accelerators)


def test_a_round_without_teachers_has_one_task_that_asks_nobody_and_takes_no_accelerator() -> None:
    config = load_config(overrides=["teachers=[{name: a}]"])
    (lane,) = lanes(config, call_of(config, 4), "vote-rest")
    assert asked(lane) == []
    assert lane.accelerators == "0"
