"""Prompt and label words as tokens, split where the words begin, merges and all."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lorapar.config import TeacherTemplate
from lorapar.errors import BadInputError
from lorapar.records import Example
from lorapar.voting.reader import encode
from lorapar.voting.teacher import Prompt, render

ASKED = Example(id="1", question="2+2?", answer="4")


def prompt(text: str, first: str, second: str) -> Prompt:
    return Prompt(None, text, {"system1": first, "system2": second})


def test_prompt_and_word_are_the_tokens_of_the_whole_text(tokenizer) -> None:
    (choice,) = encode(tokenizer, [prompt("Kind:", " fact", " math")])
    assert choice.prompt == tuple(tokenizer("Kind:")["input_ids"])
    assert choice.prompt + choice.words["system1"] == tuple(tokenizer("Kind: fact")["input_ids"])
    assert choice.prompt + choice.words["system2"] == tuple(tokenizer("Kind: math")["input_ids"])
    assert choice.length == len("Kind: fact")


def test_a_chat_is_written_by_the_chat_template(tokenizer) -> None:
    rendered = render(TeacherTemplate(style="chat"), ASKED, "Tiny", role_play=True)
    (choice,) = encode(tokenizer, [rendered])
    text = tokenizer.decode(choice.prompt)
    assert text.startswith("<|im_start|>user\nYou judge examples for training Tiny.")
    assert text.endswith("Question: 2+2?\nAnswer: 4\nKind:<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(choice.words["system2"]) == "System2"


def test_a_token_across_the_border_counts_as_the_words_for_both() -> None:
    # In this vocabulary "d:f" is one token, so "Kind:" ends otherwise before "fact" than before "math".
    pieces = ["K", "i", "n", "d", ":", "f", "a", "c", "t", "m", "h", "d:", "d:f"]
    backend = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, [("d", ":"), ("d:", "f")]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    merging = PreTrainedTokenizerFast(tokenizer_object=backend)
    (choice,) = encode(merging, [prompt("Kind:", "fact", "math")])
    assert merging.convert_ids_to_tokens(choice.prompt) == ["K", "i", "n"]
    assert merging.convert_ids_to_tokens(choice.words["system1"]) == ["d:f", "a", "c", "t"]
    assert merging.convert_ids_to_tokens(choice.words["system2"]) == ["d:", "m", "a", "t", "h"]


@pytest.mark.parametrize("words", [("fact", "factual"), ("factual", "fact")])
def test_words_of_which_one_begins_the_other_are_refused(tokenizer, words) -> None:
    with pytest.raises(BadInputError, match=r"label_words: 'fact(ual)?' and 'fact(ual)?' cannot be told apart"):
        encode(tokenizer, [prompt("Kind:", f" {words[0]}", f" {words[1]}")])


def test_no_rows_are_no_choices(tokenizer) -> None:
    assert encode(tokenizer, []) == []
