"""The chat template a model is asked and trained by: its own, one that the settings bring, or a plain one.

Everything that asks a tokenizer for its template gets the same text: TRL, lm-eval, teachers and vLLM's answers alike.
So what has to be fixed is fixed in the template itself, by statements of its own language in front of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lorapar.config import ModelConfig
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{% if bos_token is defined and bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Question: ' + message['content'] + '\\n' }}"
    "{% else %}{{ 'Answer:\\n' + message['content'] + (eos_token or '') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:\\n' }}{% endif %}"
)
"""Chat template of models that bring none (base models): `<bos>system\\n\\nQuestion: ...\\nAnswer:\\n...<eos>`."""

SYSTEM_INTO_USER = (
    "{%- if messages|length > 1 and messages[0]['role'] == 'system' and messages[1]['role'] == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']}]"
    " + messages[2:] -%}"
    "{%- endif -%}{{- '' }}"
)
"""Stands before a template that takes no system message: its text then opens the first message of the user."""

_SYSTEM, _QUESTION = "lorapar-probe-system", "lorapar-probe-question"
_ANSWER = "lorapar-probe-answer"
_ASKING, _ASKED = "{% if add_generation_prompt %}{{ ", " }}{% endif %}{{- '' }}"
"""Around what is written before an answer, behind a template that has no generation prompt."""
PROBE_QUESTION: Sequence[dict[str, str]] = ({"role": "user", "content": _QUESTION},)
PROBE_SYSTEM = {"role": "system", "content": _SYSTEM}
_WITH_SYSTEM = (PROBE_SYSTEM, *PROBE_QUESTION)


def settle_template(tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> None:
    """Give the tokenizer the one template that everything uses; a template that needs no change is left as it is.

    Raises BadInputError for a template that is not written as Jinja wants it, for several of which none is the default,
    and where `model.chat_template_kwargs` names what the template does not read.
    """
    template = config.chat_template or _own(tokenizer, config) or PLAIN_TEMPLATE
    _check_read(template, config)
    tokenizer.chat_template = _assignments(config.chat_template_kwargs) + template
    _check_syntax(tokenizer, config)
    _ask_for_answers(tokenizer)
    if takes_system(tokenizer):
        return
    plain, tokenizer.chat_template = tokenizer.chat_template, SYSTEM_INTO_USER + str(tokenizer.chat_template)
    if not takes_system(tokenizer):  # it fails for another reason, which its own words tell best
        tokenizer.chat_template = plain


def _ask_for_answers(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a template that has no generation prompt write, for one, what stands between a question and its answer."""
    asked = probe(tokenizer, PROBE_QUESTION)
    whole = probe(tokenizer, (*PROBE_QUESTION, {"role": "assistant", "content": _ANSWER}), prompt=False)
    if not asked or asked != probe(tokenizer, PROBE_QUESTION, prompt=False) or not whole.startswith(asked):
        return
    head, found, _ = whole[len(asked) :].partition(_ANSWER)
    if not found or not any(map(str.isalnum, head)):
        return
    plain = str(tokenizer.chat_template)
    tokenizer.chat_template = f"{plain.removesuffix(chr(10))}{_ASKING}{_literal(head)}{_ASKED}"
    if probe(tokenizer, PROBE_QUESTION) != asked + head:
        tokenizer.chat_template = plain


def asks_by_header(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the prompt for an answer was added to a template that has none."""
    return str(tokenizer.chat_template).endswith(_ASKED)


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a system message reaches the model: templates refuse it or leave it out without a word."""
    return all(text in probe(tokenizer, _WITH_SYSTEM) for text in (_SYSTEM, _QUESTION))


def moves_system_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the system text goes into the first message of the user, because the template takes none."""
    return str(tokenizer.chat_template).startswith(SYSTEM_INTO_USER)


def own_system_text(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What a template writes as system message where a chat has none; None where it writes none there."""
    before, found, behind = probe(tokenizer, _WITH_SYSTEM).partition(_SYSTEM)
    shown = probe(tokenizer, PROBE_QUESTION)
    behind = behind.partition(_QUESTION)[0]
    head = shown.partition(_QUESTION)[0]
    if not found or not before.strip() or not head.startswith(before) or not head.endswith(behind):
        return None
    return head[len(before) : len(head) - len(behind)].strip() or None


def is_plain(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template is the plain one, because neither model nor settings bring one."""
    return str(tokenizer.chat_template).startswith(PLAIN_TEMPLATE)


def brings_template(tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> bool:
    """Whether the template differs from the one that comes with the model."""
    ours = is_plain(tokenizer) or moves_system_text(tokenizer) or asks_by_header(tokenizer)
    return ours or config.chat_template is not None or bool(config.chat_template_kwargs)


def probe(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, prompt: bool = True) -> str:
    """What the template makes of some messages; nothing where it refuses them."""
    try:
        return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=prompt, tokenize=False))
    except Exception:
        # A template is a program of a stranger: it may fail in any way that Jinja and Python know.
        return ""


def writes_the_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether prompts hold the day on which they are written, as those of Llama 3.1 and later do."""
    if "strftime_now" not in str(tokenizer.chat_template):
        return False
    shown = probe(tokenizer, PROBE_QUESTION) + probe(tokenizer, _WITH_SYSTEM)
    today = datetime.now()
    return any(today.strftime(form) in shown for form in ("%Y", "%d %b", "%H:%M", "%m/%d/%y"))


def _check_syntax(tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> None:
    from jinja2 import TemplateSyntaxError

    try:
        tokenizer.apply_chat_template([*map(dict, PROBE_QUESTION)], tokenize=False)
    except TemplateSyntaxError as error:
        whose = "model.chat_template" if config.chat_template is not None else f"the chat template of {config.name}"
        raise BadInputError(f"{whose} is no template that Jinja reads: line {error.lineno}: {error.message}") from None
    except Exception:
        return  # it may refuse this chat and take others, and says so where rows are rendered


def _own(tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> str | None:
    """The tokenizer's template; of several by name the one called default, and none is guessed among others."""
    found = tokenizer.chat_template
    if isinstance(found, dict) and found and "default" not in found:
        raise BadInputError(
            f"model.name: {config.name} has chat templates by name ({', '.join(sorted(found))}) and none is called "
            "default; copy the one to use into a file and name that in model.chat_template"
        )
    named = found.get("default") if isinstance(found, dict) else found
    return str(named) if named else None


def _check_read(template: str, config: ModelConfig) -> None:
    for name in config.chat_template_kwargs:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise BadInputError(
                f"model.chat_template_kwargs: the chat template of {config.name} does not read '{name}', so it would "
                "change nothing; leave it out"
            )


def _assignments(values: Mapping[str, Any]) -> str:
    """Statements that set the template's options; empty where there are none."""
    statements = "".join(f"{{%- set {name} = {_literal(value)} -%}}" for name, value in sorted(values.items()))
    return f"{statements}{{{{- '' }}}}" if statements else ""


def _literal(value: Any) -> str:
    """A JSON value in Jinja's words."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
