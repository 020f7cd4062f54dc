"""How many processes train, said before any does: by phase, each with its own settings."""

from typing import Any

import pytest

from lorapar.config import RunConfig
from lorapar.errors import BadInputError
from lorapar.training.shares import NOT_SHARDED, nodes_text, processes_text

SFT, RL = {"system": "system1", "method": "sft"}, {"system": "system2", "method": "rl"}


def config(*phases: Any, **values: Any) -> RunConfig:
    return RunConfig(phases=phases, **values)


def test_settings_of_a_phase_decide_how_many_processes_train_it() -> None:
    plain = config("sft", "rl")
    assert processes_text(plain, "sft", 4) == ["4, each with batch_size 1, gradient_accumulation 8"]
    own = config({**SFT, "settings": {"gradient_accumulation": 6}}, RL)
    count, why = processes_text(own, "sft", 4)
    assert count == "3, each with batch_size 1, gradient_accumulation 2"
    assert why.startswith("3 of 4 processes train: batch_size 1 times gradient_accumulation 6 cannot be divided")


def test_phases_that_differ_are_reported_one_by_one_and_alike_ones_once() -> None:
    alike = config(SFT, {**SFT, "settings": {"learning_rate": 0.1}}, RL)
    assert processes_text(alike, "sft", 2) == ["2, each with batch_size 1, gradient_accumulation 16"]
    differ = config(SFT, RL, {**SFT, "settings": {"gradient_accumulation": 8}})
    assert processes_text(differ, "sft", 2) == ["2, each with batch_size 1, gradient_accumulation 16"]
    assert processes_text(differ, "rl", 2) == [
        "rl of system2: 2, each with batch_size 8, gradient_accumulation 2",
        "sft of system1: 2, each with batch_size 1, gradient_accumulation 4",
    ]


def test_of_a_node_in_which_nothing_is_trained_nothing_is_reported() -> None:
    only = config("sft")
    assert processes_text(only, "rl", 2) == nodes_text(only, "rl", 2, 1) == []
    assert processes_text(config("rl", "sft"), "sft", 2) == []


def test_nodes_are_refused_with_the_phase_that_cannot_be_divided() -> None:
    odd = config(SFT, RL, {**SFT, "settings": {"gradient_accumulation": 3}})
    assert nodes_text(odd, "sft", 2, 1) == [
        "2 processes, 1 on each of 2 nodes, each with batch_size 1, gradient_accumulation 16"
    ]
    with pytest.raises(BadInputError, match=r"sft of system1: sft: batch_size 1 times gradient_accumulation 3 cannot"):
        nodes_text(odd, "rl", 2, 1)
    alone = config({**SFT, "settings": {"gradient_accumulation": 3}}, RL)
    with pytest.raises(BadInputError, match=r"^sft: batch_size 1 times gradient_accumulation 3 cannot be divided"):
        nodes_text(alone, "sft", 2, 1)
    assert nodes_text(config("sft", "rl", sft={"gradient_accumulation": 3}), "rl", 2, 1)


def test_a_base_that_one_process_trains_is_not_sharded() -> None:
    sharded = config("sft", "rl", sharding="fsdp2")
    assert processes_text(sharded, "sft", 1) == [NOT_SHARDED]
    (two,) = processes_text(sharded, "sft", 2)
    assert two.endswith(", and a part of the base")
    (nodes,) = nodes_text(sharded, "rl", 2, 2)
    assert nodes.endswith(", and a part of the base")


def test_other_stages_share_out_their_rows() -> None:
    assert processes_text(config("sft", "rl"), "evaluate", 3) == ["3, each with a part of the rows"]
    few = config("sft", "rl", score={"examples": 5, "batch_size": 4})
    assert processes_text(few, "score", 3) == ["2, each with a part of the rows"]
    (why,) = processes_text(config("sft", "rl", evaluate={"backend": "vllm"}), "evaluate", 2)
    assert why.startswith("evaluate.backend vllm answers in one process")


def test_as_many_processes_as_nodes_are_one_on_each_and_fewer_are_refused() -> None:
    (line,) = nodes_text(config("sft", "rl", processes=2), "sft", 2, 4)
    assert line.startswith("2 processes, 1 on each of 2 nodes")
    with pytest.raises(BadInputError, match=r"processes: 1 in all are fewer than one on each of 2 nodes; raise it"):
        nodes_text(config("sft", "rl", processes=1), "sft", 2, 4)


def test_rollouts_of_a_server_are_asked_for_by_every_process() -> None:
    server = config("sft", "rl", rl={"rollouts": "server", "server": {"endpoint": "http://a/v1"}})
    assert processes_text(server, "rl", 2) == processes_text(config("sft", "rl"), "rl", 2)
    assert processes_text(server, "rl", 2)


def test_rollouts_of_vllm_come_from_one_process_which_is_reported_where_there_could_be_more() -> None:
    vllm = config("sft", "rl", rl={"rollouts": "vllm"})
    assert processes_text(vllm, "rl", 1) == []
    assert processes_text(vllm, "rl", 2) == [
        "rl.rollouts vllm samples in one process, so one trains; transformers samples in each, and a server for all"
    ]
