"""Rows seen through chat templates that drop, trim, refuse or rewrite what they are handed."""

import json
import shutil

import pytest
from transformers import AddedToken

from lorapar.basemodel import load_tokenizer, model_folder
from lorapar.basemodel.chat_template import PLAIN_TEMPLATE
from lorapar.config import EvaluateConfig, ModelConfig, PromptConfig, TagsConfig, load_config
from lorapar.data.rendering import RowCheck, template_notes
from lorapar.errors import BadInputError
from lorapar.evaluation.answers import Asking, Generated
from lorapar.prompts import IGNORED, encode_rows, opens_steps
from lorapar.records import Example, Turn, read_records
from lorapar.stages import prepare
from lorapar.stages.contract import StageCall
from lorapar.stages.plan import stage_settings
from lorapar.training.rewards import Reward, strict_format
from lorapar.training.rl import completion_reader

PROMPTS = PromptConfig(system1=None, system2="Show steps.")
PLAIN = Example(id="plain", question="3+4?", answer="7")
THOUGHT = Example(id="thought", question="3+4?", answer="<think>3 and 4 are 7</think>\n<answer>7</answer>")
TURN = "{{ '<|im_start|>' + m.role + '\n' + CONTENT + '<|im_end|>\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\nOPENED' }}{% endif %}"


def chat(content="m.content", opened="", turn=TURN):
    body = turn.replace("CONTENT", content)
    return f"{{% for m in messages %}}{body}{{% endfor %}}{PROMPT.replace('OPENED', opened)}"


FORGETS_THOUGHTS = chat("(m.content.split('</think>') | last | trim)")


def tokenizer_of(template):
    return load_tokenizer(ModelConfig(name="builtin:tiny", chat_template=template))


def notes_of(template, *rows, tokenizer=None):
    model = ModelConfig(name="builtin:tiny", chat_template=template)
    check = RowCheck(tokenizer or load_tokenizer(model), model, PROMPTS)
    check.see(rows)
    return check.notes()


def learned(template, row):
    tokenizer = tokenizer_of(template)
    (encoded,) = encode_rows(tokenizer, [(row, "system2")], PROMPTS, max_length=1000)
    start = encoded["labels"].count(IGNORED)
    return tokenizer.decode(encoded["input_ids"][:start]), tokenizer.decode(encoded["input_ids"][start:])


def test_the_white_space_that_a_completion_begins_with_is_learned_or_its_loss_is_reported():
    row = Example(id="goes on", question="The sky is", answer="  blue.")
    assert learned(chat(), row)[1] == "  blue.<|im_end|>\n"
    assert notes_of(chat(), row) == []
    (note,) = notes_of(chat("m.content | trim"), row)
    assert "which loses '  '" in note


def test_rows_that_the_template_keeps_are_no_matter():
    assert notes_of(chat(), PLAIN, THOUGHT) == []


def test_a_thought_that_the_template_drops_is_learned_all_the_same_and_reported():
    (note,) = notes_of(FORGETS_THOUGHTS, PLAIN, THOUGHT)
    assert "changes the answer of 1 of 2 rows (the first is row thought, which loses '<think>3 and 4 are 7</th" in note
    assert learned(FORGETS_THOUGHTS, THOUGHT)[1] == THOUGHT.answer + "<|im_end|>\n"


def test_context_is_seen_too():
    message = Turn(role="assistant", content="<think>hm</think>3")
    row = PLAIN.model_copy(update={"history": (Turn(role="user", content="1+2?"), message)})
    assert notes_of(chat(), row) == []
    (note,) = notes_of(FORGETS_THOUGHTS, PLAIN, row)
    assert "changes or leaves out an earlier answer in 1 of 2 rows (the first is row plain: '<think>hm</think>" in note
    forgets = chat("('' if loop.first else m.content)")
    with pytest.raises(BadInputError, match=r"row plain: the chat template of builtin:tiny changes .* question: '1\+2"):
        notes_of(forgets.replace("loop.first", "'1+2' in m.content"), row)


def test_blanks_that_the_template_trims_are_learned_all_the_same():
    blank = PLAIN.model_copy(update={"answer": "7 \n"})
    (note,) = notes_of(chat("(m.content | trim)"), blank)
    assert r"which loses ' \n'" in note
    assert learned(chat("(m.content | trim)"), blank)[1] == "7 \n<|im_end|>\n"


def test_a_template_that_joins_question_and_answer_by_a_blank_keeps_it():
    joined = chat(turn="{{ (' ' if m.role == 'assistant' else '') + (m.content | trim) + '<|im_end|>' }}").replace(
        PROMPT.replace("OPENED", ""), ""
    )
    assert learned(joined, PLAIN)[1] == " 7<|im_end|>"
    assert learned(joined, PLAIN.model_copy(update={"answer": "7 "}))[1] == " 7 <|im_end|>"


def test_rows_are_learned_behind_the_prompt_they_are_asked_with():
    opening = chat("(m.content.split('</think>') | last)", opened="<think>\n")
    prompt, answer = learned(opening, THOUGHT)
    assert prompt.endswith("assistant\n<think>\n")
    assert answer == THOUGHT.answer.removeprefix("<think>") + "<|im_end|>\n"
    notes = notes_of(opening, PLAIN)
    assert any(r"in another way than its prompt ends, in 1 of 1 rows" in note for note in notes)
    assert any("opens a tag that the answer does not close, in 1 of 1 rows" in note for note in notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "(m.content | replace('steps', 'all'))",
            r"row plain: the chat template of builtin:tiny changes .* part of the system message: 'steps",
        ),
        ("(m.content if m.role == 'system' else '?')", r"row plain: .* part of the question: '3\+4\?'"),
    ],
)
def test_a_question_or_system_message_that_is_lost_is_refused(content, message):
    with pytest.raises(BadInputError, match=message):
        notes_of(chat(content), PLAIN)


def test_system_text_that_goes_to_the_user_is_reported():
    (note,) = notes_of(
        "{% for m in messages %}"
        + TURN.replace("CONTENT", "m.content").join(["{% if m.role != 'system' %}", "{% endif %}{% endfor %}"])
        + PROMPT.replace("OPENED", ""),
        PLAIN,
    )
    assert "takes no system message: its text opens the first message of the user" in note


def test_control_tokens_in_the_text_of_a_row_are_reported():
    (note,) = notes_of(chat(), PLAIN.model_copy(update={"answer": "7<|im_end|>8"}), THOUGHT)
    assert "stand as text in 1 of 2 rows (the first is row plain: '<|im_end|>')" in note


def test_a_system_message_that_the_template_brings_itself_is_reported():
    own = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" + chat()
    (note,) = notes_of(own, PLAIN)
    assert (
        "where a row has no system message, the chat template of builtin:tiny writes one of its own: 'Be kind.'" in note
    )
    model = ModelConfig(name="builtin:tiny", chat_template=own)
    always = PromptConfig(system1="Answer.", system2="Show steps.")
    assert not list(template_notes(load_tokenizer(model), model, always))
    head = chat().replace("{% for m", "{{ '<|im_start|>Today.' }}{% for m", 1)
    assert notes_of(head, PLAIN) == [], "what stands before every chat is no system message"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("(1 // (m.content | length - 4)) | string", "ZeroDivisionError"),
        ("m.content + 1", "TypeError"),
        ("m.content.encode('ascii').decode()", "UnicodeEncodeError"),
    ],
)
def test_a_template_that_fails_on_some_text_names_row_and_failure(content, why):
    row = Example(id="odd", question="3+4é", answer="7")
    with pytest.raises(BadInputError, match=rf"row odd: the chat template of .* fails on this text \({why}: "):
        notes_of(chat(content), row)


def test_a_turn_that_is_left_open_at_the_end_is_learned_closed_and_reported():
    opened = TURN.replace("CONTENT", "m.content").replace(
        "+ '<|im_end|>\n'", "}}{% if not loop.last or add_generation_prompt %}{{ '<|im_end|>\n' }}{% endif %}{{ ''"
    )
    template = f"{{% for m in messages %}}{opened}{{% endfor %}}{PROMPT.replace('OPENED', '')}"
    assert learned(template, PLAIN)[1] == "7<|im_end|>"
    (note,) = notes_of(template, PLAIN)
    assert "ends a turn only where another one follows; what it writes there, '<|im_end|>', is learned after" in note


def test_a_template_without_an_end_of_its_own_is_followed_by_the_eos():
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    asked, ended = notes_of(template, PLAIN)
    assert "has no generation prompt: what it writes before an answer is a part of prompts here" in asked
    assert "so the end token <|im_end|> is learned after it" in ended
    assert learned(template, PLAIN)[1].endswith("7\n<|im_end|>")


def test_rows_that_need_a_token_without_embedding_are_refused(tmp_path):
    folder = shutil.copytree(model_folder(ModelConfig(name="builtin:tiny")), tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": 250}))
    tokenizer = load_tokenizer(ModelConfig(name=str(folder)))
    (note,) = notes_of(None, PLAIN, tokenizer=tokenizer)
    assert "has 259 tokens and the model embeddings for 250" in note
    with pytest.raises(BadInputError, match=r"row odd: the tokenizer of builtin:tiny makes token 25\d of it"):
        notes_of(None, PLAIN.model_copy(update={"id": "odd", "answer": "\x9f"}), tokenizer=tokenizer)


def test_a_model_without_a_template_is_reported_to_be_asked_in_plain_words():
    (note,) = notes_of(PLAIN_TEMPLATE, PLAIN)
    assert "brings no chat template: rows are asked as 'Question: …', 'Answer:'" in note


@pytest.mark.parametrize(("control", "kept"), [(True, "; name what is left of it ('the')"), (False, None)])
def test_tags_that_decoding_leaves_out_are_reported(control, kept):
    tokenizer = load_tokenizer(ModelConfig(name="builtin:tiny"))
    token = AddedToken("<|thinks|>", special=control)
    tokenizer.add_special_tokens({"additional_special_tokens": [token]}) if control else tokenizer.add_tokens([token])
    tags = TagsConfig(think=("<|thinks|>the", "</think>"), answer=None)
    notes = list(
        template_notes(tokenizer, ModelConfig(name="builtin:tiny"), PromptConfig(system2="Show steps.", tags=tags))
    )
    found = [note for note in notes if "prompts.tags: '<|thinks|>the' has control tokens of builtin:tiny" in note]
    assert [kept in note for note in found] == ([True] if kept else [])


@pytest.mark.parametrize(("opened", "right"), [("<think>\n", True), ("", False)])
def test_answers_go_on_inside_the_steps_that_a_prompt_has_opened(opened, right):
    """Evaluation and rewards read the completion behind the tag that the template has written already."""
    tokenizer = tokenizer_of(chat(opened=opened))
    tags = TagsConfig(think=("<think>", "</think>"), answer=("<answer>", "</answer>"))
    prompts = PromptConfig(system2="Show steps.", tags=tags)
    assert opens_steps(tokenizer, prompts) is right
    reward = Reward("strict_format", 1.0, strict_format)
    read = completion_reader(tokenizer, prompts, reward)
    assert reward([read("3 and 4 are 7</think><answer>7</answer>")], ["7"]) == [float(right)]
    assert completion_reader(tokenizer, prompts, Reward("mine:own", 1.0, strict_format))("x</think>") == "x</think>"
    asking = Asking(tokenizer, prompts, EvaluateConfig())
    tokens = tokenizer("steps</think><answer>7</answer>", add_special_tokens=False)["input_ids"]
    row = Example(id="r", question="3+4?", answer="7", reference="7")
    (answer,) = asking.judged("base", [(row, "system2")], [Generated(tokens, 0.5)])
    assert (answer.text, answer.strict) == ("steps</think><answer>7</answer>", True)


def test_generated_rows_are_written_in_the_tags_of_the_settings(tmp_path):
    config = load_config(preset="tiny", overrides=["prompts.tags={think: [<think>, </think>], answer: null}"])
    call = StageCall(stage_settings(config, "prepare", {}), {}, {"examples": tmp_path}, tmp_path)
    prepare.run(call)
    rows = list(read_records(tmp_path / "examples.jsonl", Example))
    steps = [row for row in rows if "<think>" in row.answer]
    assert steps
    assert all(row.answer.endswith(f"</think>\n\n{row.reference}") for row in steps)
    assert not any("<answer>" in row.answer or "<reasoning>" in row.answer for row in rows)


@pytest.mark.parametrize("form", ["%d %b %Y", "%Y-%m-%d %H:%M"])
def test_a_template_that_writes_the_day_is_reported_and_one_whose_date_is_set_is_not(form):
    dated = f"{{% if date_string is not defined %}}{{% set date_string = strftime_now('{form}') %}}{{% endif %}}"
    dated += "{{ 'Today: ' + date_string + '\n' }}" + chat()
    (note,) = notes_of(dated, PLAIN)
    assert "writes the date of the day into prompts" in note
    model = ModelConfig(
        name="builtin:tiny", chat_template=dated, chat_template_kwargs={"date_string": "a day of the year 1999"}
    )
    assert RowCheck(load_tokenizer(model), model, PROMPTS).notes() == []


def test_a_template_with_a_slip_is_reported_by_its_line():
    with pytest.raises(BadInputError, match=r"model\.chat_template is no template that Jinja reads: line 3: "):
        tokenizer_of("{% for m in messages %}\n{{ m.content }}\n{{ m.role }{% endfor %}")


def test_a_prompt_that_opens_with_an_empty_thought_loses_nothing_of_an_answer_in_tags():
    row = PLAIN.model_copy(update={"answer": "<answer>7</answer>"})
    (note,) = notes_of(chat(opened="<think>\n\n</think>\n\n"), row)
    assert "begins answers in another way than its prompt ends, in 1 of 1 rows" in note
    assert "loses" not in note


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_an_end_that_the_settings_name_and_that_is_plain_text_is_said(tmp_path, file):
    """As where the token's number is another vocabulary's: transformers' default of many families is 2."""
    folder = shutil.copytree(model_folder(ModelConfig(name="builtin:tiny")), tmp_path / "model")
    (number,) = load_tokenizer(ModelConfig(name="builtin:tiny"))("#", add_special_tokens=False)["input_ids"]
    (folder / "generation_config.json").unlink(missing_ok=True)
    values = json.loads((folder / "config.json").read_text())
    (folder / file).write_text(json.dumps({**(values if file == "config.json" else {}), "eos_token_id": number}))
    model = ModelConfig(name=str(folder))
    notes = list(template_notes(load_tokenizer(model), model, PROMPTS))
    assert any(
        f"name token {number} as an end of answers (eos_token_id), which is the text '#'" in one for one in notes
    )
    assert not any("which is the text" in one for one in notes_of(chat(), PLAIN))
