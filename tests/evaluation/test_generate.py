"""Greedy generation: the same tokens as one row at a time, whatever else is in the batch."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from lorapar.basemodel import StopStrings, load_model, load_tokenizer
from lorapar.config import ModelConfig
from lorapar.evaluation import batches_by_length, generate_greedy
from lorapar.evaluation.generate import position_table

BASE = ModelConfig(name="builtin:tiny", dtype="float32")
PROMPTS = [[5, 9], [7, 8, 60, 61, 62, 63, 64], [100], [30, 31, 32, 33]]


@pytest.fixture(scope="module")
def model():
    return load_model(BASE)


def one_by_one(model, prompt: list[int], stops: list[int], most: int) -> list[int]:
    """Greedy decoding without cache, padding or generate()."""
    ids = list(prompt)
    while len(ids) - len(prompt) < most:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


def test_a_batch_gives_what_each_row_gives_alone(model) -> None:
    expected = [one_by_one(model, prompt, [2], 12) for prompt in PROMPTS]
    assert generate_greedy(model, PROMPTS, stop_ids=[2], pad_id=2, max_new_tokens=12) == expected


def test_an_answer_ends_with_its_first_stop_token_even_where_it_is_also_the_pad_token(model) -> None:
    free = generate_greedy(model, PROMPTS, stop_ids=[], pad_id=2, max_new_tokens=12)
    stop = free[1][3]
    stopped = generate_greedy(model, PROMPTS, stop_ids=[stop], pad_id=stop, max_new_tokens=12)
    assert stopped == [one_by_one(model, prompt, [stop], 12) for prompt in PROMPTS]
    assert stopped[1] == free[1][: free[1].index(stop) + 1]


def test_without_a_stop_token_nothing_ends_an_answer_though_the_model_names_one(model, monkeypatch) -> None:
    free = generate_greedy(model, PROMPTS, stop_ids=[], pad_id=2, max_new_tokens=12)
    assert [len(row) for row in free] == [12] * len(PROMPTS)
    monkeypatch.setattr(model.generation_config, "eos_token_id", free[1][3])
    assert generate_greedy(model, PROMPTS, stop_ids=[], pad_id=2, max_new_tokens=12) == free


def test_a_model_that_ships_a_repetition_penalty_is_still_greedy(model) -> None:
    expected = generate_greedy(model, PROMPTS, stop_ids=[2], pad_id=2, max_new_tokens=12)
    shipped = model.generation_config.to_dict()
    model.generation_config.update(repetition_penalty=5.0, do_sample=True, no_repeat_ngram_size=1)
    try:
        assert generate_greedy(model, PROMPTS, stop_ids=[2], pad_id=2, max_new_tokens=12) == expected
    finally:
        model.generation_config.update(**shipped)


def test_an_answer_ends_with_the_token_that_completes_a_stop_string(model, tmp_path) -> None:
    tokenizer = load_tokenizer(BASE)
    free = generate_greedy(model, PROMPTS, stop_ids=[], pad_id=2, max_new_tokens=12)
    text = tokenizer.decode(free[1][2:4])
    shutil.copytree(tokenizer.name_or_path, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"stop_strings": [text]}))
    strings = StopStrings(load_tokenizer(BASE.model_copy(update={"name": str(tmp_path / "model")})))
    stopped = generate_greedy(model, PROMPTS, stop_ids=[], pad_id=2, max_new_tokens=12, strings=strings)
    assert stopped == [strings.trim(row) for row in free]
    assert len(stopped[1]) < 12


def test_positions_are_those_of_texts_and_not_of_a_vision_tower() -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    seeing = AutoConfig.for_model(
        "gemma3",
        text_config={**small, "vocab_size": 99, "num_key_value_heads": 1, "head_dim": 16},
        vision_config={**small, "image_size": 28, "patch_size": 14},
    )
    with torch.device("meta"):
        assert position_table(AutoModelForCausalLM.from_config(seeing)) is None
        gpt2 = AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=77, vocab_size=99)
        assert position_table(AutoModelForCausalLM.from_config(gpt2)) == 77


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 9))
def test_batches_hold_every_row_once_and_like_lengths_together(lengths: list[int], size: int) -> None:
    batches = batches_by_length(lengths, size)
    flat = [row for batch in batches for row in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[row] for row in flat] == sorted(lengths, reverse=True)
    assert all(len(batch) == size for batch in batches[:-1])
