"""A base that lies on two GPUs, layer by layer: init, score, evaluate and publication's check as on one."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from lorapar.adapter import load_scores
from lorapar.adapter.folder import WEIGHTS_FILE
from lorapar.basemodel import load_model, load_tokenizer
from lorapar.basemodel.spread import Gpus, is_spread
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError
from lorapar.progress import Silent
from lorapar.records import Answer, read_json, read_records
from lorapar.registry.verify import verify_package
from lorapar.stages.contract import StageCall
from lorapar.stages.processes import parts_count
from lorapar.store import seal
from tests.pretended_gpus import devices, gpus

TINY = ModelConfig(name="builtin:tiny", dtype="float32")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Four layers, and a head of its own: the embedding and the head lie on different GPUs."""
    folder = tmp_path_factory.mktemp("untied")
    config = copy.deepcopy(load_model(TINY).config)
    config.tie_word_embeddings, config.num_hidden_layers, config.initializer_range = False, 4, 0.2
    config.layer_types = None
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    load_tokenizer(TINY).save_pretrained(folder)
    return ModelConfig(name=str(folder), dtype="float32")


@pytest.fixture(scope="module")
def heldout(kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heldout")
    kit.rows_folder(folder, kit.words(2, "heldout"), "system1.jsonl")
    (folder / "manifest.json").unlink()
    return kit.rows_folder(folder, kit.sums(2, "heldout"), "system2.jsonl")


@pytest.fixture(scope="module")
def incumbent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("incumbent")
    (folder / "incumbent.json").write_text("{}")
    seal(folder, "publish.incumbent")
    return folder


def whole_run(kit, base, out, heldout, incumbent):
    """What the stages make that read or ask a model; `tuned` is what init made, moved."""
    model = base.model_dump(mode="json")
    kit.run("init", out, {"model": model, "adapter": kit.ADAPTER, "seed": 0})
    rows = kit.rows_folder(out / "rows", kit.sums(4))
    score = {"model": model, "prompts": {}, "score": {"examples": 3, "batch_size": 2}, "seed": 0, "system": "system2"}
    kit.run("score", out, score, {"adapter": out / "adapter", "rows": rows})
    tuned = out / "tuned"
    tuned.mkdir()
    for path in (out / "adapter").iterdir():
        (tuned / path.name).write_bytes(path.read_bytes())
    tensors, generator = load_file(tuned / WEIGHTS_FILE), torch.Generator().manual_seed(0)
    moved = {name: one + 0.1 * torch.randn(one.shape, generator=generator) for name, one in sorted(tensors.items())}
    save_file(moved, tuned / WEIGHTS_FILE)
    (tuned / "manifest.json").unlink()
    seal(tuned, "rl.adapter")
    evaluate = {"model": model, "prompts": {}, "evaluate": {"batch_size": 4, "max_new_tokens": 3}, "seed": 0}
    inputs = {"heldout": heldout, "after_sft": out / "adapter", "published": tuned, "incumbent": incumbent}
    kit.run("evaluate", out, evaluate, inputs)
    return verify_package(base, tuned, tuned, ["What is 2+2?"], Silent())


def test_stages_make_the_same_with_the_layers_on_two_gpus(kit, base, heldout, incumbent, tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    plain = load_model(base)
    with gpus(1, plain):
        assert devices(list(load_model(base).parameters())) == {"xla:0"}
        expected = whole_run(kit, base, one, heldout, incumbent)
    with gpus(2, plain):
        assert devices(list(load_model(base).parameters())) == {"xla:0", "xla:1"}
        found = whole_run(kit, base, two, heldout, incumbent)
    assert read_json(two / "adapter" / "summary.json") == read_json(one / "adapter" / "summary.json")
    assert (two / "adapter" / WEIGHTS_FILE).read_bytes() == (one / "adapter" / WEIGHTS_FILE).read_bytes()
    scores = [load_scores(folder / "scores" / "scores.safetensors")[0] for folder in (one, two)]
    for name, tensor in scores[0].items():  # float32: the sums of a layer's gradients are taken in another order
        # Rounding in float32: 1.3e-6 of the largest score was seen on a CPU with AVX2 and nothing newer.
        torch.testing.assert_close(scores[1][name], tensor, rtol=1e-6, atol=3e-6 * float(tensor.max()))
        assert float(tensor.max()) > 1e-8
    answers = [list(read_records(folder / "evaluation" / "answers.jsonl", Answer)) for folder in (one, two)]
    assert answers[1] == answers[0]
    figures = [json.loads((folder / "evaluation" / "summary.json").read_text()) for folder in (one, two)]
    for model in ("base", "after_sft", "after_rl"):
        for system in ("system1", "system2"):
            losses = [one[model][f"{system}_loss"] for one in figures]
            assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert found.max_logit_difference <= 1e-5
    assert found.max_change_of_base == pytest.approx(expected.max_change_of_base, rel=1e-4)


def test_two_tensors_on_two_gpus_do_not_meet(base) -> None:
    """What the test above rests on."""
    with gpus(2, load_model(base)):
        model = load_model(base)
        with pytest.raises(RuntimeError, match="several devices"):
            model.model.embed_tokens.weight + model.lm_head.weight


@pytest.mark.parametrize(
    ("memory", "spread"), [((), False), ((100_000,), False), ((400_000, 400_000), True), ((10**9, 10**9), False)]
)
def test_a_base_is_spread_where_one_gpu_has_no_room_for_it(memory, spread) -> None:
    """`builtin:tiny` takes 362,496 bytes in float32."""
    assert is_spread(TINY, Gpus(memory)) is spread
    assert not is_spread(TINY.model_copy(update={"quantization": "nf4"}), Gpus(memory))


def test_more_than_all_gpus_hold_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadInputError, match=r"builtin:tiny takes 0.0 GB in float32, and the 2 visible GPUs have 0.0"):
        is_spread(TINY, Gpus((100_000, 100_000)))


def test_one_process_scores_with_a_base_on_all_gpus(kit, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lorapar.training.shares.visible_gpus", lambda: 2)
    notes = kit.Notes()
    fields = {"inputs": {}, "outputs": {}, "scratch": tmp_path, "progress": notes}
    call = StageCall(settings=type("Settings", (), {"model": TINY}), **fields)
    for memory, count in (((10**9, 10**9), 2), ((400_000, 400_000), 1)):
        monkeypatch.setattr(Gpus, "here", classmethod(lambda cls, memory=memory: cls(memory)))
        assert parts_count(call, 8) == count
    assert notes.lines == ["the base fits no GPU alone: its layers lie on 2, and one process works with all"]
