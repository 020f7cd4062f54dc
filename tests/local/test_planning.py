"""`lorapar plan` looks up what is a model, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from lorapar.basemodel import hub, load_model
from lorapar.basemodel.shape import model_shape
from lorapar.config import ModelConfig, RunConfig, load_config
from lorapar.errors import BadInputError
from lorapar.local.calls import filter_calls, judge_calls, pick_calls, teacher_calls
from lorapar.local.estimate import StageMemory, base_bytes, cards_text, stage_memory
from lorapar.local.planning import plan_run
from lorapar.local.runner import comes_to
from tests.processors import pretend_cpu

SERVED = 'teachers=[{name: a, backend: openai, endpoint: "http://127.0.0.1:9/v1", model: served-name}]'


def test_what_an_endpoint_serves_is_not_looked_up(tmp_path, monkeypatch) -> None:
    def asked(*_):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "commit_of", asked)
    monkeypatch.setattr(hub, "config_file", asked)
    config = load_config(preset="tiny", overrides=[SERVED])
    plan_run(config, tmp_path / "run", until=None, fresh=False)
    memory = stage_memory(config)
    assert memory["vote"].total_bytes < memory["init"].total_bytes


def test_a_teacher_that_is_no_model_is_named(tmp_path) -> None:
    config = load_config(preset="tiny", overrides=["teachers=[{name: a, model: ./nowhere}]"])
    with pytest.raises(BadInputError, match=r"^teachers\[a\]\.model: \./nowhere is not a folder"):
        plan_run(config, tmp_path / "run", until=None, fresh=False)


@pytest.mark.parametrize(
    ("init", "phases", "count"),
    [
        *(("pissa", "[sft, rl]", 1), ("olora", "[rl]", 1), ("residual", "[sft, rl]", 0), ("pissa", "[sft]", 0)),
        ("olora", "[{system: system1, method: sft}]", 0),
    ],
)
def test_a_start_that_is_reported_to_collapse_with_rl_is_reported(tmp_path, init: str, phases: str, count: int) -> None:
    config = load_config(preset="tiny", overrides=[f"adapter.init={init}", f"phases={phases}"])
    lines = [str(one) for one in plan_run(config, tmp_path / "run", until=None, fresh=False).lines]
    found = [line.partition(" ")[2].strip() for line in lines if "2512.23165" in line]
    assert len(found) == count
    assert all(line.startswith(f"adapter.init {init}: ") for line in found)


@pytest.mark.parametrize(
    ("native", "message"),
    [
        (True, "format      bfloat16, which this CPU computes natively"),
        (False, "format      float32: this CPU only emulates bfloat16"),
    ],
)
def test_what_auto_came_to_is_reported(tmp_path, monkeypatch, native, message) -> None:
    pretend_cpu(monkeypatch, {"amx_bf16": native})
    lines = [
        str(one)
        for one in plan_run(
            load_config(preset="tiny", overrides=["model.dtype=auto"]), tmp_path / "run", until=None, fresh=False
        ).lines
    ]
    assert message in lines
    fixed = plan_run(load_config(preset="tiny"), tmp_path / "run", until=None, fresh=False).lines
    assert not [line for line in map(str, fixed) if line.startswith("format ")]


@pytest.mark.parametrize(("last", "comes"), [("sft", False), ("execute", False), ("gate", True), ("report", True)])
def test_only_a_run_that_comes_to_the_gate_asks_for_rows_it_can_judge(last, comes) -> None:
    assert comes_to("gate", last) is comes


@pytest.mark.parametrize(
    ("rl", "message"),
    [
        ({"max_steps": 5, "batch_size": 4, "gradient_accumulation": 2, "num_generations": 4}, "at most 40 calls"),
        ({"epochs": 2.0, "num_generations": 8}, "at most 4,096 calls"),  # 256 training rows of the task mix
    ],
)
def test_calls_of_a_judge_are_counted_before_it_is_asked(rl: dict[str, Any], message: str) -> None:
    judge = {"judge": {"endpoint": "http://judge:8000/v1", "model": "m"}}
    config = RunConfig(rl={**rl, "rewards": {"exact_answer": 1.0, "quality": judge}})
    (line,) = judge_calls(config)
    assert line.startswith(f"quality: {message}")
    assert judge_calls(RunConfig()) == []


def test_calls_of_a_judge_that_measures_are_counted_by_rows_and_models() -> None:
    judge = "{judge: {endpoint: 'http://127.0.0.1:9/v1', model: m}, systems: [system2]}"
    overrides = [f"evaluate.judges={{helpful: {judge}}}", "gate.measures=[helpful]"]
    (line,) = judge_calls(load_config(preset="tiny", overrides=overrides))
    assert line.startswith("helpful (evaluate): at most 48 calls, one for each held-out row and model")
    (line,) = judge_calls(load_config(preset="tiny", overrides=[*overrides, "evaluate.limit=2"]))
    assert "at most 8 calls" in line


def test_completions_of_the_filter_are_counted_before_they_are_asked() -> None:
    assert filter_calls(RunConfig()) == []
    (line,) = filter_calls(RunConfig(rl={"filter": {"samples": 4}}))
    assert line.startswith("rl.filter: 4 completions of every row that RL could learn from: at most 1,024 of 256 rows")
    assert "(the vote decides)" in line
    (line,) = filter_calls(RunConfig(rl={"filter": {}}, data={"source": "hub:openai/gsm8k"}))
    assert line.startswith("rl.filter: 8 completions of every row that RL could learn from; "), (
        "rows of a hub are unread"
    )
    assert filter_calls(RunConfig(rl={"filter": {}}, phases=["sft"])) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("votes", "256 calls: of 1, 1 read every row"),
        ("data", "0 calls: of 1, 1 read every row; training rows get the systems that the data name"),
        ("random", "0 calls: of 1, 1 read every row; training rows get their systems by chance"),
    ],
)
def test_calls_of_teachers_leave_out_rows_that_are_not_voted_on(labels: str, message: str) -> None:
    assert teacher_calls(RunConfig(voting={"labels": labels})).startswith(message)


def phases_of_rl(first: dict[str, Any], second: dict[str, Any], **sections: Any) -> RunConfig:
    """Two phases of RL with settings of their own, and SFT between them."""
    phases = [
        {"system": "system2", "method": "rl", "settings": first},
        {"system": "system1", "method": "sft"},
        {"system": "system1", "method": "rl", "settings": second},
    ]
    return RunConfig(phases=phases, **sections)


def test_calls_of_each_phase_go_by_its_own_settings() -> None:
    config = phases_of_rl({"filter": {"samples": 2}}, {"filter": None}, rl={"filter": {"samples": 4}})
    (line,) = filter_calls(config)
    assert line.startswith("rl.filter (rl of system2): 2 completions of every row")
    assert "at most 512 of 256 rows" in line
    config = phases_of_rl({}, {"filter": {"samples": 3}, "rows": "all"})
    (line,) = filter_calls(config)
    assert line.startswith("rl.filter (rl of system1): 3 completions")
    assert "the vote decides" not in line
    judge = {"judge": {"endpoint": "http://judge:8000/v1", "model": "m"}}
    rl = {"rewards": {"exact_answer": 1.0, "quality": judge}, "max_steps": 5, "batch_size": 4}
    (line,) = judge_calls(phases_of_rl({"gradient_accumulation": 2}, {"max_steps": 2}, rl=rl))
    assert line.startswith(
        "quality: rl of system2: at most 40 calls; rl of system1: at most 32 calls, one a completion"
    )
    assert judge_calls(RunConfig(phases=["sft"], rl=rl)) == [], "what nobody asks is not counted"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (6, "WARNING: publish.pick best: 24 answers: 4 adapters, 6 development rows each; no earlier adapter can be "),
        (56, "WARNING: publish.pick best: 224 answers: 4 adapters, 56 development rows each; an earlier adapter is "),
        (120, "publish.pick best: 480 answers: 4 adapters, 120 development rows each; an earlier adapter is better "),
    ],
)
def test_answers_of_a_pick_are_counted_and_few_rows_are_reported(rows: int, message: str) -> None:
    config = RunConfig(publish={"pick": "best"}, data={"development": rows})
    (line,) = pick_calls(config)
    assert line.startswith(message)
    assert ("7 rows are the least" in line) == (rows == 6)
    assert (f"from {700 / rows:.3g} points on" in line) == (rows > 6)
    (line,) = pick_calls(RunConfig(data={"development": rows}))
    assert "nothing reads them while publish.pick is last" in line
    assert pick_calls(RunConfig()) == []


@pytest.mark.parametrize("kind", [{}, {"quantization": "nf4"}, {"quantization": "nf4", "double_quantization": False}])
def test_the_term_of_the_weights_is_what_torch_holds(kind, tmp_path) -> None:
    """On a model of 23 million weights, whose biases and norms weigh next to nothing."""
    sizes = {"vocab_size": 300, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=8)).save_pretrained(tmp_path)
    config = ModelConfig(name=str(tmp_path), dtype="bfloat16", **kind)
    held = {tensor.data_ptr(): tensor.nbytes for tensor in load_model(config).state_dict().values()}
    shape = model_shape(config)
    assert shape is not None
    assert base_bytes(shape, config) == pytest.approx(sum(held.values()), rel=0.02)


def test_a_stage_is_reported_with_its_terms_and_the_card_that_holds_it(tmp_path) -> None:
    lines = [str(line) for line in plan_run(load_config(preset="tiny"), tmp_path, until=None, fresh=False).lines]
    assert next(line for line in lines if line.startswith("memory, GB")).endswith("fits one T4")


def test_a_plan_that_ends_before_rl_says_nothing_of_its_memory(tmp_path) -> None:
    def said(until):
        lines = plan_run(load_config(preset="tiny"), tmp_path, until=until, fresh=False).lines
        return [
            stage for stage in ("rl", "sft") if any(f"{stage}: " in str(line) and "fits" in str(line) for line in lines)
        ]

    assert said(None) == ["rl", "sft"]
    assert said("sft") == ["sft"]
    one = StageMemory(14_000_000_000, 400_000_000, 400_000_000, activations=3_000_000_000, kv_cache=4_000_000_000)
    assert one.total_bytes == 14_000_000_000 + 800_000_000 + 4_000_000_000 + one.context
    assert (
        one.description == "weights 14.00, kv cache 4.00, activations 3.00, context 0.50, gradients 0.40, adapter 0.40"
    )
    assert cards_text(one) == "fits one L4, A10, RTX 4090"
    assert cards_text(replace(one, weights=140_000_000_000)).startswith("fits no card, and its weights are not")
    large = replace(one, weights=140_000_000_000)
    assert cards_text(large, shared="fsdp2") == "fits no card alone: 2 H200 hold it with sharding fsdp2"
    assert cards_text(large, shared="layers") == "fits no card alone: 2 H200 hold it in one process, layer by layer"
    # What each gathers beside its part counts, too; and a process that has its part already is told by that.
    assert cards_text(replace(one, weights=260_000_000_000), shared="fsdp2") == (
        "fits no card alone: 3 H200 hold it with sharding fsdp2"
    )
    assert cards_text(large, shared="fsdp2", gathered=60_000_000_000).startswith("fits no card alone: 3 H200")
    assert cards_text(replace(one, gathered=2_000_000_000, shards=2)) == "fits one L4, A10, RTX 4090 each"
    assert cards_text(replace(large, shards=2), shared="fsdp2").startswith("fits no card alone: 3 H200")
    assert cards_text(replace(one, activations=400_000_000_000)).startswith("fits no card: lower batch_size")


def test_a_quantised_base_leaves_the_other_terms_as_they_are(tmp_path) -> None:
    full, small = (
        stage_memory(load_config(preset="tiny", overrides=[f"model.quantization={kind}"]))["sft"]
        for kind in ("none", "nf4")
    )
    assert small.weights < 0.5 * full.weights
    assert (small.adapter, small.gradients, small.moments, small.logits) == (
        *(full.adapter, full.gradients),
        *(full.moments, full.logits),
    )


def test_a_process_holds_its_part_of_a_sharded_base_and_of_the_rest_all(tmp_path) -> None:
    """tests/benchmarks/bench_memory.py holds the sums against the peak of a process."""
    sizes = {"vocab_size": 300, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4}
    LlamaConfig(**sizes, num_attention_heads=8, tie_word_embeddings=False).save_pretrained(tmp_path)
    given = [f"model.name={tmp_path}", "model.dtype=bfloat16", "sft.batch_size=4", "sft.gradient_accumulation=1"]
    alone = stage_memory(load_config(preset="tiny", overrides=given), "cuda")["sft"]
    halves = [
        stage_memory(load_config(preset="tiny", overrides=[*given, "processes=2", *more]), "cuda")["sft"]
        for more in ([], ["sharding=fsdp2"])
    ]
    whole, sharded = halves
    assert (alone.shards, whole.shards, sharded.shards) == (1, 1, 2)
    assert (whole.weights, whole.gathered) == (alone.weights, 0)
    assert sharded.weights == alone.weights // 2
    # Three of the four layers, and the head.
    layer = 2 * (4 * 512 * 512 + 3 * 512 * 1408)
    assert sharded.gathered == 3 * layer + 2 * 300 * 512
    for part in halves:  # of a step of four rows each does two
        assert part.activations == alone.activations // 2
        assert (part.adapter, part.gradients, part.moments) == (alone.adapter, alone.gradients, alone.moments)
    assert sharded.description.startswith("in each of 2 processes ")
    on_four = stage_memory(load_config(preset="tiny", overrides=[*given, "sharding=fsdp2"]), "cuda", gpus=4)["sft"]
    assert (on_four.shards, on_four.weights) == (4, alone.weights // 4)


def test_what_only_resident_memory_shows_is_counted_on_a_cpu_alone() -> None:
    """tests/benchmarks/bench_memory.py holds the sums against peaks."""
    config = load_config(preset="tiny", overrides=["model.quantization=nf4"])
    here, card = (stage_memory(config, device)["sft"] for device in ("cpu", "cuda"))
    assert here.heap > 0
    assert card.heap == 0
    assert here.weights == card.weights
    assert here.total_bytes == here.weights + here.adapter + here.gradients + here.moments + (
        here.activations + here.logits + here.heap + here.context
    )


@pytest.mark.parametrize("vocabulary", [8_192, 32_768, 262_144])
def test_logits_are_held_a_tile_at_a_time(tmp_path, vocabulary: int) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaConfig(**sizes, vocab_size=vocabulary).save_pretrained(tmp_path)
    at_once = {}
    for tokens in (4096, 16384):
        config = load_config(
            preset="tiny", overrides=[f"model.name={tmp_path}", "sft.batch_size=1", f"sft.max_length={tokens}"]
        )
        at_once[tokens] = stage_memory(config, "cpu")["sft"].logits
    assert at_once[4096] == at_once[16384] == 4096 * min(vocabulary, 32_768) * (4 + 6 * 4)


def test_processes_of_training_are_reported_where_they_are_several(tmp_path) -> None:
    overrides = ["processes=2", "sharding=fsdp2", "sft.batch_size=2", "sft.gradient_accumulation=8"]
    config = load_config(preset="tiny", overrides=overrides)
    lines = [str(one) for one in plan_run(config, tmp_path / "run", until="sft", fresh=False).lines]
    assert "processes   sft: 2, each with batch_size 2, gradient_accumulation 4, and a part of the base" in lines
    assert "processes   score: 2, each with a part of the rows" in lines
    assert not [line for line in lines if line.startswith(("processes   rl", "processes   evaluate"))]
    alone = plan_run(load_config(preset="tiny"), tmp_path / "run", until=None, fresh=False).lines
    assert not [line for line in map(str, alone) if line.startswith("processes")]
