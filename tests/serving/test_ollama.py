"""`lorapar export --ollama`: a Modelfile by Ollama's grammar, with a template only where it says what the model's says.

Ollama itself does not run here. What its parser (`parser/parser.go`) and Go's `text/template` make of these very files
was looked at by hand; the tests read them by the same rules.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import typer.testing

from lorapar.basemodel import load_tokenizer, model_folder
from lorapar.cli import app
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, ExitCode
from lorapar.progress import Silent
from lorapar.serving.ollama import chat_form, checked_base, modelfile, stop_texts

INSTRUCTIONS = {"FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE"}
QWEN = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are Q.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPOKEN = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}{% else %}{{ 'SYS \"' + m.content + '\"\n' }}"
    "{% endif %}{% endfor %}"
)
TRIMMED = QWEN.replace("m.content", "m.content | trim")
DATED = QWEN.replace("You are Q.", "' + strftime_now('%Y') + '")
FOLDED = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role + ': ' }}"
    "{% if loop.index0 == 1 and messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{{ m.content + '\n' }}{% endif %}{% endfor %}{{ 'assistant: ' }}"
)


@pytest.fixture
def tokenizer():
    return load_tokenizer(ModelConfig(name="builtin:tiny"), Silent())


def parse(text: str) -> list[tuple[str, str]]:
    """Instructions and values: a value in triple or double quotes, or the rest of its line."""
    found = []
    while text.strip():
        match = re.match(r'\s*([A-Z]+) (?:(stop) )?(?:"""(.*?)"""|"([^"\n]*)"|([^"\n]\S*))\n', text, re.DOTALL)
        assert match, text
        instruction, parameter, *values = match.groups()
        assert instruction in INSTRUCTIONS
        found.append((parameter or instruction, next(one for one in values if one is not None)))
        text = text[match.end() :]
    return found


def execute(template: str, messages: list[dict[str, str]]) -> str:
    """What Go's `text/template` makes of such a template, whose only parts are those of `ChatForm`."""
    head = "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
    assert template.startswith(head)
    assert template.endswith("{{ end }}")
    body = template.removeprefix(head).removesuffix("{{ end }}")
    written = ""
    for place, message in enumerate(messages):
        last = place == len(messages) - 1
        holds = [True]
        for action in re.findall(r"\{\{ (.*?) \}\}(?=\{\{|$)", body):
            role = re.search(r'eq \.Role "(\w+)"', action)
            if action.startswith(("if ", "else if ")):
                conditions = {
                    "not $last": not last,
                    'and $last (ne .Role "assistant")': last and message["role"] != "assistant",
                    'and (eq $i 0) (ne .Role "system")': place == 0 and message["role"] != "system",
                }
                condition = action.removeprefix("else ").removeprefix("if ")
                value = conditions[condition] if condition in conditions else message["role"] == role[1]
                if action.startswith("else"):
                    holds.pop()
                holds.append(value)
            elif action == "end":
                holds.pop()
            elif all(holds):
                written += message["content"] if action == ".Content" else json.loads(action)
        assert holds == [True]
    return written


@pytest.mark.parametrize("template", [None, QWEN, SPOKEN])
def test_a_template_that_writes_messages_in_turn_is_translated(tokenizer, template: str | None) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    form = chat_form(tokenizer)
    assert form is not None
    turns = [{"role": role, "content": f' {role}\n"1" '} for role in ("user", "assistant", "user")]
    for chat in (turns, turns[:1], [{"role": "system", "content": "Be brief."}, *turns]):
        expected = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        assert execute(form.go_template(), chat) == expected
    # An answer that is only begun goes on.
    assert execute(form.go_template(), turns[:2]).endswith(turns[1]["content"])
    (_, _, (instruction, value), *_) = parse(modelfile("llama3.2:1b", form, ["<|im_end|>"], None))
    assert (instruction, value) == ("TEMPLATE", form.go_template())


@pytest.mark.parametrize("template", [TRIMMED, DATED, FOLDED, "{{ raise_exception('no') }}"])
def test_any_other_template_is_left_to_the_base(tokenizer, template: str) -> None:
    tokenizer.chat_template = template
    assert chat_form(tokenizer) is None
    assert "TEMPLATE" not in dict(parse(modelfile("x", None, [], None)))


def test_a_token_that_llama_cpp_writes_first_by_itself_is_left_out(tokenizer) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.chat_template = "{{ bos_token }}" + SPOKEN
    form = chat_form(tokenizer)
    assert form is not None
    assert form.around["system"][0].startswith(tokenizer.bos_token)  # the tokenizer does not put it there
    begin = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    form = chat_form(tokenizer)
    assert form is not None
    assert tokenizer.bos_token not in form.go_template()


def test_the_command_makes_a_folder_for_ollama(tiny_run, tmp_path) -> None:
    message = call("export", tiny_run / "adapter", "--ollama", tmp_path / "model", "--base", "llama3.2:1b")
    assert "with the chat template and 1 stop texts" in message
    parsed = parse((tmp_path / "model" / "Modelfile").read_text())
    assert parsed[:2] == [("FROM", "llama3.2:1b"), ("ADAPTER", "./adapter.gguf")]
    assert ("stop", "<|im_end|>") in parsed
    assert (tmp_path / "model" / "adapter.gguf").read_bytes()[:4] == b"GGUF"
    with pytest.raises(BadInputError, match="is not empty, and --ollama makes a folder"):
        call("export", tiny_run / "adapter", "--ollama", tmp_path / "model", "--base", "llama3.2:1b")
    file = tmp_path / "model" / "adapter.gguf"
    assert checked_base(str(file)) == str(file)


def test_stop_strings_of_several_tokens_stand_in_the_modelfile(tmp_path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder(ModelConfig(name="builtin:tiny"), Silent()), folder)
    strings = ["\nQuestion:", "END OF ANSWER", '"Q"\n']
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "stop_strings": strings}))
    stops = stop_texts(load_tokenizer(ModelConfig(name=str(folder)), Silent()))
    assert stops == ("<|im_end|>", *strings)
    assert parse(modelfile("x", None, stops, None))[2:] == [("stop", one) for one in stops]


@pytest.mark.parametrize("base", ["a b", "x\nSYSTEM y", "../x", "nowhere.gguf", '"', ""])
def test_a_base_that_ollama_could_not_have_is_refused(tmp_path, base: str) -> None:
    with pytest.raises(BadInputError, match="--base"):
        checked_base(base)


def test_a_value_that_no_modelfile_holds_is_refused() -> None:
    assert parse(modelfile("x", None, ["a\n"], 'Say "yes".\n'))[-2:] == [("SYSTEM", 'Say "yes".\n'), ("stop", "a\n")]
    for wrong in ('say """x"""', 'ends with "', "bell \a"):
        with pytest.raises(BadInputError, match="cannot be written in a Modelfile"):
            modelfile("x", None, [], wrong)


def call(*arguments: str | Path) -> str:
    """What the command prints; its errors are raised."""
    result = typer.testing.CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == ExitCode.OK, result.output
    return result.output
