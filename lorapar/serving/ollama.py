"""A published adapter for Ollama: a Modelfile beside the adapter in GGUF.

The syntax follows Ollama's documentation and its parser: `INSTRUCTION arguments`, with values in double quotes, or in
triple quotes where they hold a double quote or a line break. A chat template is a program in Jinja; Ollama's are
programs in Go's `text/template`. This module translates templates that write each message between two texts of its
role, which it checks on conversations. For any other template, the base's own holds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorapar.errors import BadInputError
from lorapar.progress import Progress
from lorapar.serving.gguf_lora import MAGIC, family_of, write_gguf
from lorapar.serving.here import LocalAdapter
from lorapar.store import replace_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADAPTER_FILE = "adapter.gguf"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,254}")
"""A model of Ollama's library or of another host, as [HOST[:PORT]/][OWNER/]MODEL[:TAG]."""
_ROLES = ("system", "user", "assistant")
_MARKS = {role: f"lorapar-probe-{role}" for role in _ROLES}


@dataclass(frozen=True)
class ChatForm:
    """A chat template that writes every message between two texts of its role."""

    around: Mapping[str, tuple[str, str]]
    """The text before and after a message, by role."""
    answer: str
    """The text at the end of a prompt, after which the answer follows."""
    opening: str
    """The text before a conversation that does not begin with a system message."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of a prompt, as Ollama renders `go_template`."""
        head = "" if messages[0]["role"] == "system" else self.opening
        turns = (self.around[one["role"]][0] + one["content"] + self.around[one["role"]][1] for one in messages)
        return head + "".join(turns) + self.answer

    def go_template(self) -> str:
        """The same in Go's `text/template`, on one line; an unfinished answer gets no text after it."""
        parts = ["{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"]
        if self.opening:
            parts.append('{{ if and (eq $i 0) (ne .Role "system") }}' + _literal(self.opening) + "{{ end }}")
        for role in _ROLES:
            before, after = map(_literal, self.around[role])
            if role == "assistant":
                after = "{{ if not $last }}" + after + "{{ end }}"
            word = "if" if role == _ROLES[0] else "else if"
            parts.append(f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
        parts.append(
            '{{ end }}{{ if and $last (ne .Role "assistant") }}' + _literal(self.answer) + "{{ end }}{{ end }}"
        )
        return "".join(parts)


@dataclass(frozen=True)
class Written:
    """What `write_ollama` made."""

    modules: int
    """The number of modules with LoRA."""
    template: bool
    """Whether the Modelfile has the chat template; otherwise the base's own holds."""
    stops: tuple[str, ...]


def write_ollama(adapter: LocalAdapter, folder: Path, base: str, progress: Progress) -> Written:
    """Make `folder` an adapter in GGUF with a Modelfile over `base`, as a whole or not at all.

    `base` is the value of FROM: a model of Ollama, or a GGUF file on this machine. Raises BadInputError where it is
    neither, and the errors of `write_gguf`.
    """
    from lorapar.basemodel import load_tokenizer

    source = checked_base(base)
    family_of(adapter)
    tokenizer = load_tokenizer(adapter.model, progress)
    form, stops = chat_form(tokenizer), stop_texts(tokenizer)
    scratch = folder.with_name(f".{folder.name}.writing")
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        modules = write_gguf(adapter, scratch / ADAPTER_FILE)
        text = modelfile(source, form, stops, adapter.prompts.message_for(None))
        (scratch / "Modelfile").write_text(text, encoding="utf-8")
        replace_folder(scratch, folder)
    finally:
        for left in (scratch / ADAPTER_FILE, scratch / "Modelfile"):
            left.unlink(missing_ok=True)
        if scratch.exists():
            os.rmdir(scratch)
    return Written(modules, form is not None, stops)


def checked_base(base: str) -> str:
    """The checked value of FROM; a file by its absolute path, since Ollama reads others from the Modelfile's folder."""
    path = Path(base).expanduser()
    if path.is_file():
        with path.open("rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise BadInputError(
                    f"--base {base}: is no GGUF file; name one, or a model of Ollama such as llama3.2:1b"
                )
        whole = str(path.absolute())
        if not whole.isprintable() or whole != whole.strip() or '"' in whole:
            raise BadInputError(f"--base {base}: its path cannot be written in a Modelfile; move the file")
        return whole
    if not _NAME.fullmatch(base) or ".." in base or base.endswith(".gguf"):
        raise BadInputError(
            f"--base {base}: is neither a file here nor a name of a model of Ollama, such as llama3.2:1b; give the "
            "base model that the adapter was trained on"
        )
    return base


def modelfile(base: str, form: ChatForm | None, stops: Sequence[str], system: str | None) -> str:
    """The text of a Modelfile; without `form` the template of the base holds."""
    lines = [f"FROM {base}", f"ADAPTER ./{ADAPTER_FILE}"]
    if form is not None:
        lines.append(f"TEMPLATE {_quoted(form.go_template())}")
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    return "\n".join([*lines, *(f"PARAMETER stop {_quoted(one)}" for one in stops)]) + "\n"


def chat_form(tokenizer: PreTrainedTokenizerBase) -> ChatForm | None:
    """The form of the tokenizer's chat template; None where conversations show that it has another form.

    A token that begins every text is left out: llama.cpp adds it itself.
    """
    from lorapar.basemodel.chat_template import writes_the_date

    form = None if writes_the_date(tokenizer) else _guessed(tokenizer)
    if form is None or not all(form.render(chat) == _rendered(tokenizer, chat) for chat in _conversations()):
        return None
    return form


def _guessed(tokenizer: PreTrainedTokenizerBase) -> ChatForm | None:
    """The text around each role's messages, guessed from a few chats as if the template had this form."""
    system, user, assistant = ({"role": role, "content": _MARKS[role]} for role in _ROLES)
    pieces = re.split("|".join(_MARKS.values()), _rendered(tokenizer, [system, user, assistant, user]))
    if len(pieces) != 5:
        return None
    head, after_system, after_user, after_assistant, end = pieces
    ended = _rendered(tokenizer, [system, user, assistant], prompt=False).rpartition(_MARKS["assistant"])[2]
    answer_end = ended if after_assistant.startswith(ended) else ""
    begin_user = after_assistant.removeprefix(answer_end)
    user_end = _rendered(tokenizer, [system, user], prompt=False).rpartition(_MARKS["user"])[2]
    around = {
        "system": (head, after_system.removesuffix(begin_user)),
        "user": (begin_user, user_end),
        "assistant": (after_user.removeprefix(user_end), answer_end),
    }
    opening = _rendered(tokenizer, [user]).partition(_MARKS["user"])[0].removesuffix(begin_user)
    return ChatForm(around, end.removeprefix(user_end), opening)


def _conversations() -> list[list[dict[str, str]]]:
    """Chats that reveal a template which does more than write messages in turn."""
    texts = (" Why? ", "Two\n\nlines.", '<b>x</b> {{ y }} "z"', "<think>a</think> b")
    user = [{"role": "user", "content": text} for text in texts]
    answers = [{"role": "assistant", "content": text} for text in reversed(texts)]
    system = {"role": "system", "content": " Be\nbrief. "}
    turns = [one for pair in zip(user, answers, strict=True) for one in pair]
    ends = (1, 3, 5, 7)
    return [opening + turns[:end] for opening in ([], [system]) for end in ends]


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, prompt: bool = True) -> str:
    from lorapar.basemodel.chat_template import probe

    text = probe(tokenizer, messages, prompt=prompt)
    begin = tokenizer.bos_token
    adds = bool(begin) and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(str(begin)) if adds else text


def stop_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Every token that ends an answer, and the texts at which the model's settings end one."""
    from lorapar.basemodel import answer_end

    end = answer_end(tokenizer)
    return (*(str(tokenizer.convert_ids_to_tokens(one)) for one in end.token_ids), *end.strings)


def _literal(text: str) -> str:
    """A text as a Go string in a template, with unprintable characters escaped; empty for an empty text."""
    plain = json.dumps(text, ensure_ascii=False)
    shown = "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in plain)
    return "{{ " + shown + " }}" if text else ""


def _quoted(text: str) -> str:
    """A value of a Modelfile. Ollama removes quotes at both ends and knows no escapes inside."""
    if '"""' in text or text.endswith('"') or any(not (one.isprintable() or one in "\n\t") for one in text):
        raise BadInputError(f"{text[:60]!r} cannot be written in a Modelfile, whose values cannot be escaped")
    return f'"""{text}"""' if '"' in text or "\n" in text else f'"{text}"'
