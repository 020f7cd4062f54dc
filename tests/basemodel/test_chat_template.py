"""One template for everything: options set, one of the settings brought, a system message it does not take moved."""

import pytest
from pydantic import ValidationError

from lorapar.basemodel import load_tokenizer, moves_system_text
from lorapar.basemodel.chat_template import settle_template
from lorapar.basemodel.tiny import CHATML
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError

CHAT = [{"role": "system", "content": "Show steps."}, {"role": "user", "content": "3+4?"}]
REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m.content }}]{% endfor %}"
)
FORGETTING = "{% for m in messages %}{% if m.role != 'system' %}[{{ m.content }}]{% endif %}{% endfor %}"
SWITCHED = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{{ '<think>' if thinking is defined and thinking else '' }}{{ style }}"
)


def tokenizer(template, **options):
    return load_tokenizer(ModelConfig(name="builtin:tiny", chat_template=template, chat_template_kwargs=options))


def rendered(loaded, messages=CHAT):
    return loaded.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def test_a_template_that_takes_everything_is_left_as_it_is():
    loaded = load_tokenizer(ModelConfig(name="builtin:tiny"))
    assert loaded.chat_template == CHATML
    assert not moves_system_text(loaded)


@pytest.mark.parametrize("template", [REFUSING, FORGETTING])
def test_system_text_opens_the_first_question_where_the_template_takes_none(template):
    loaded = tokenizer(template)
    assert moves_system_text(loaded)
    assert rendered(loaded) == "[Show steps.\n\n3+4?]"
    assert rendered(loaded, CHAT[1:]) == "[3+4?]"
    assert rendered(loaded, [*CHAT, {"role": "assistant", "content": "7"}]) == "[Show steps.\n\n3+4?][7]"


def test_options_of_a_template_are_set_for_everybody():
    assert rendered(tokenizer(SWITCHED, thinking=True, style='a "b"\\n')) == 'Show steps.3+4?<think>a "b"\\n'
    assert rendered(tokenizer(SWITCHED, thinking=False, style=None)).endswith("None")


def test_an_option_that_the_template_does_not_read_is_refused():
    with pytest.raises(BadInputError, match=r"chat_template_kwargs: the chat template of builtin:tiny does not read"):
        tokenizer(SWITCHED, thinkng=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_template_is_read_from_its_file_at_once(tmp_path, encoding):
    path = tmp_path / "mine.jinja"
    path.write_text(FORGETTING, encoding=encoding)
    assert ModelConfig(chat_template=str(path)).chat_template == FORGETTING


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("chat_template", "no-such.jinja", "neither a Jinja template nor a file that can be read"),
        ("chat_template_kwargs", {"messages": []}, "'messages' is no option of a template"),
        ("chat_template_kwargs", {"a b": 1}, "'a b' is no name that a template can read"),
    ],
)
def test_settings_that_cannot_work_are_refused(field, value, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**{field: value})


def test_of_several_templates_by_name_the_default_is_used_and_none_is_guessed():
    loaded, config = load_tokenizer(ModelConfig(name="builtin:tiny")), ModelConfig(name="builtin:tiny")
    loaded.chat_template = {"default": FORGETTING, "tool_use": "{{ tools }}"}
    settle_template(loaded, config)
    assert rendered(loaded, CHAT[1:]) == "[3+4?]"
    loaded.chat_template = {"rag": FORGETTING, "tool_use": "{{ tools }}"}
    with pytest.raises(BadInputError, match=r"has chat templates by name \(rag, tool_use\) and none is called default"):
        settle_template(loaded, config)
    settle_template(loaded, config.model_copy(update={"chat_template": REFUSING}))
    assert rendered(loaded, CHAT[1:]) == "[3+4?]"
