"""What ends an answer, for models whose template, tokenizer and generation settings each say something else."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lorapar.basemodel import StopStrings, answer_end, embedding_rows, load_tokenizer, model_folder
from lorapar.basemodel.chat_template import PLAIN_TEMPLATE
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError

TINY = ModelConfig(name="builtin:tiny", dtype="float32")
TURNS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + END }}{% endfor %}"
TEXT, START, TURN = 0, 1, 2  # <|endoftext|>, <|im_start|>, <|im_end|>


@pytest.fixture
def base(tmp_path):
    """A tokenizer of the tiny model with another end token, template or generation settings."""

    def make(*, end="'<|im_end|>'", eos="<|endoftext|>", generation=None, template=None, **settings):
        folder = shutil.copytree(model_folder(TINY), tmp_path / "model")
        edit(folder / "tokenizer_config.json", eos_token=eos, **settings)
        edit(folder / "config.json", eos_token_id=None if eos is None else 0)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
        (folder / "chat_template.jinja").write_text(template or TURNS.replace("END", end))
        return load_tokenizer(ModelConfig(name=str(folder)))

    return make


def edit(path, **values):
    kept = {key: value for key, value in {**json.loads(path.read_text()), **values}.items() if value is not None}
    path.write_text(json.dumps(kept))


def test_a_model_whose_eos_is_its_turn_end_has_one_end():
    end = answer_end(load_tokenizer(TINY))
    assert (end.token_ids, end.unnamed_ids, end.learned) == ((TURN,), (), "<|im_end|>\n")


def test_the_turn_end_ends_an_answer_beside_the_eos_and_servers_have_to_be_given_it(base):
    end = answer_end(base())
    assert (end.turn_end, end.token_ids, end.unnamed_ids) == (TURN, (TEXT, TURN), (TURN,))


@pytest.mark.parametrize("generation", [START, [START, TEXT]])
def test_generation_settings_name_one_end_or_several(base, generation):
    end = answer_end(base(generation=generation))
    assert (end.token_ids, end.unnamed_ids) == ((TEXT, START, TURN), (TURN,))


@pytest.mark.parametrize("generation", [str(START), "<|im_start|>", ["<|im_start|>"], float(START)])
def test_generation_settings_may_name_the_token_itself(base, generation):
    assert answer_end(base(generation=generation)).token_ids == (TEXT, START, TURN)


@pytest.mark.parametrize("generation", ["<|none|>", [{"id": 1}]])
def test_an_end_that_is_no_token_is_refused(base, generation):
    with pytest.raises(BadInputError, match=r"as eos_token_id, which is no token of its tokenizer"):
        answer_end(base(generation=generation))


@pytest.mark.parametrize("end", [r"'<|im_end|>\n'", r"'\n<|im_end|>'", "'<|im_end|><|endoftext|>'"])
def test_whatever_else_the_template_writes_the_first_special_token_ends_the_turn(base, end):
    found = answer_end(base(end=end))
    assert found.turn_end == TURN
    assert found.learned == found.written


def test_ends_of_several_plain_tokens_are_followed_by_the_eos_and_cut_off(base):
    end = answer_end(base(end="'</s>'"))
    assert (end.turn_end, end.token_ids, end.learned) == (None, (TEXT,), "</s><|endoftext|>")
    assert end.cut("4</s>") == "4"
    assert end.cut("</s> is a tag") == "</s> is a tag"


def test_a_line_break_alone_ends_no_answer(base):
    end = answer_end(base(end=r"'\n'"))
    assert (end.turn_end, end.learned) == (None, "\n<|endoftext|>")


def test_a_tokenizer_without_eos_takes_the_turn_end(base):
    tokenizer = base(eos=None, pad_token=None)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")


def test_or_what_the_generation_settings_name(base):
    tokenizer = base(eos=None, end="' ;'", generation=[TEXT, TURN])
    assert tokenizer.eos_token == "<|endoftext|>"
    assert answer_end(tokenizer).learned == " ;<|endoftext|>"


def test_where_nothing_ends_an_answer_there_is_still_a_pad_token(base):
    tokenizer = base(eos=None, end="''", pad_token=None)
    assert answer_end(tokenizer).token_ids == ()
    assert tokenizer.pad_token_id is not None


def test_the_plain_template_ends_with_the_eos_of_a_model_that_brings_none(base):
    tokenizer = base(template=PLAIN_TEMPLATE)
    assert answer_end(tokenizer).turn_end == TEXT


def test_a_pad_token_without_an_embedding_is_replaced(base):
    tokenizer = base(pad_token="<pad>")
    assert "<pad>" in tokenizer.get_vocab()
    assert tokenizer.pad_token == "<|endoftext|>"
    assert embedding_rows(tokenizer) == 259


@pytest.mark.parametrize("pad", [None, "<pad>", "<end>"])
def test_a_pad_token_is_no_eos_without_an_embedding(base, pad):
    tokenizer = base(pad_token=pad, eos="<end>")
    assert tokenizer.eos_token_id >= embedding_rows(tokenizer)
    assert tokenizer.pad_token_id < embedding_rows(tokenizer)


def test_stop_strings_of_one_token_are_tokens_and_the_others_are_texts(base):
    tokenizer = base()
    settings = Path(tokenizer.name_or_path) / "generation_config.json"
    settings.write_text(json.dumps({"eos_token_id": TEXT, "stop_strings": ["<|im_start|>", "Question:"]}))
    assert answer_end(tokenizer).token_ids == (TEXT, START, TURN)
    assert START in answer_end(tokenizer).unnamed_ids  # a server has to be told
    assert answer_end(tokenizer).strings == ("Question:",)
    assert answer_end(tokenizer).cut("7\nQuestion: 2? Question:") == "7\n"
    settings.write_text(json.dumps({"stop_strings": "<|im_start|>"}))
    assert START in answer_end(tokenizer).token_ids


def test_a_stop_string_is_found_in_the_completion_alone_and_ends_with_the_token_that_completes_it(base):
    tokenizer = base()
    settings = Path(tokenizer.name_or_path) / "generation_config.json"
    settings.write_text(json.dumps({"stop_strings": ["\nQ:", "Frage: é", "<|im_end|>\n"]}))
    strings = StopStrings(tokenizer)
    for text, left in {
        "7\nQ: 2\nQ:": "7\nQ:",
        "7 Frage: é!": "7 Frage: é",
        "7 Q: 2": "7 Q: 2",
        "7<|im_end|>\n\n": "7<|im_end|>\n",
    }.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(strings.trim(ids)) == left
        assert strings.end(ids) is (left[-1] in "é:\n")
    prompt, made = ([tokenizer(text)["input_ids"] for text in texts] for texts in (["1\n", "22"], ["Q:", "\nQ:"]))
    rows = [[0] * (3 - len(one)) + one + two for one, two in zip(prompt, made, strict=True)]
    ended = [strings.criteria(3)(torch.tensor([row]), None).item() for row in rows]
    assert ended == [False, True]
    assert strings.for_vllm() == {"detokenize": True, "skip_special_tokens": False, "stop": list(strings.texts)}


OPEN_AT_THE_END = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% if (loop.last and add_generation_prompt) or not loop.last %}{{ END }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("end", [r"'<|im_end|>\n'", r"'\n<|im_end|>'", "'<|im_end|><|endoftext|>'"])
def test_a_turn_that_is_closed_only_where_another_follows_ends_the_last_answer_too(base, end):
    found = answer_end(base(template=OPEN_AT_THE_END.replace("END", end)))
    assert (found.written, found.turn_end, found.token_ids, found.unnamed_ids) == ("", TURN, (TEXT, TURN), (TURN,))
    assert (
        found.learned == found.closing == end.strip("'").replace(r"\n", "\n").partition("<|im_end|>")[0] + "<|im_end|>"
    )


def test_what_is_written_after_every_answer_stands_once_before_what_closes_a_turn(base):
    template = OPEN_AT_THE_END.replace("m.content }}", r"m.content + '\n' }}").replace("END", "'<|im_end|>'")
    found = answer_end(base(template=template))
    assert (found.written, found.closing, found.learned) == ("\n", "<|im_end|>", "\n<|im_end|>")


def test_a_header_that_begins_with_one_token_and_ends_with_another_closes_nothing(base):
    template = OPEN_AT_THE_END.replace("m.role + '\\n'", "m.role + '<|im_end|>'").replace("END", "''")
    found = answer_end(base(template=template))
    assert (found.turn_end, found.token_ids, found.learned) == (None, (TEXT, START), "<|endoftext|>")


def test_where_nothing_closes_a_turn_the_token_that_begins_the_next_one_ends_it_and_is_not_learned(base):
    found = answer_end(base(template=OPEN_AT_THE_END.replace("END", "''")))
    assert (found.turn_end, found.token_ids, found.unnamed_ids) == (None, (TEXT, START), (START,))
    assert found.learned == "<|endoftext|>"


def test_a_template_that_takes_no_chat_without_a_system_message_has_its_end_all_the_same(base):
    demands = "{% if messages[0].role != 'system' %}{{ raise_exception('first a system message') }}{% endif %}"
    assert answer_end(base(template=demands + TURNS.replace("END", "'<|im_end|>'"))).turn_end == TURN


@pytest.mark.parametrize("mark", ["<|eot|>", "<end_of_turn>"])
def test_a_mark_that_is_no_token_of_the_tokenizer_ends_an_answer_as_text(base, mark):
    end = answer_end(base(end=f"'{mark}\\n'"))
    assert (end.turn_end, end.token_ids, end.strings) == (None, (TEXT,), (mark,))
    assert end.learned == f"{mark}\n<|endoftext|>"
    assert end.cut(f"4{mark}\nuser: more?") == "4"


def test_where_no_token_ends_an_answer_the_text_that_the_template_writes_does(base):
    end = answer_end(base(eos=None, end=r"'\n### End'", pad_token=None))
    assert (end.token_ids, end.strings, end.learned) == ((), ("### End",), "\n### End")
