"""`lorapar ask` and `lorapar chat`: base and adapter side by side, asked as evaluation asks."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorapar import __version__
from lorapar.cli import complete
from lorapar.cli.adapters import Where, open_registry
from lorapar.cli.base import AsJson, app, ending, err, out, show_document
from lorapar.errors import BadInputError, StorageError, nearest
from lorapar.extras import pip_install

if TYPE_CHECKING:
    from lorapar.cli.documents import AskedDocument
    from lorapar.records import System, Turn
    from lorapar.registry import Registry
    from lorapar.serving.here import LocalAdapter, Pair

Adapter = Annotated[
    str,
    typer.Argument(
        metavar="DIR|REF", help="A PEFT folder, or NAME, NAME@3, NAME@ALIAS.", autocompletion=complete.adapters
    ),
]
Model = Annotated[Path | None, typer.Option(help="A local copy of the base model; else it is had as in training.")]
AskedAs = Annotated[
    str | None,
    typer.Option("--system", help="Ask with the system message of this system's rows; absent: as System 1."),
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer in tokens, as evaluate.max_new_tokens.")]
_Row = tuple[str, str, "System | None"]
"""(id, question, system) of a question."""
_BATCH = 8
"""Rows of a file that are answered together."""


@app.command("ask")
def ask_command(  # noqa: PLR0913  -- an argument is an option of the command
    adapter: Adapter,
    question: Annotated[str | None, typer.Argument(help="What to ask; or give --file.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="JSON Lines with `question`, maybe `id` and `system`; - for stdin.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON Lines to write; absent: to the terminal.")
    ] = None,
    system: AskedAs = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Ask the base model too.")] = True,
    max_tokens: MaxTokens = 512,
    model: Model = None,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Ask base and adapter one question or a file of them, with the prompts, template and stop tokens of evaluation.

    Examples: `lorapar ask runs/demo/adapter 'What is 17 plus 25?'`, `lorapar ask NAME@3 --file rows.jsonl -o out.jsonl`
    """
    if (question is None) == (file is None):
        raise BadInputError("ask: give one question, or --file with many")
    if output is not None and file is None:
        raise BadInputError("--output is for --file; with one question use --json")
    if output is not None:
        _check_output(output)
    if question is not None:
        _check_text("the question", question)
    with ending("nothing was answered yet, run the same command again"):
        rows = list(_rows(file, system)) if file is not None else [("question", str(question), system)]
        with _pair(adapter, where, model, [one for *_, one in rows]) as pair:
            if file is not None:
                _write(pair, rows, output, max_tokens, base=base)
                return
            asked = next(_answers(pair, rows, max_tokens, base=base))
    if as_json:
        show_document(asked)
    else:
        _show(asked)


@app.command("chat")
def chat_command(
    adapter: Adapter,
    system: AskedAs = None,
    max_tokens: MaxTokens = 512,
    model: Model = None,
    where: Where = None,
) -> None:
    """Talk to base and adapter side by side, word by word; each continues from its own answers.

    An empty line or Ctrl-D ends it, `/new` begins a new conversation.

    Examples: `lorapar chat runs/demo/adapter`, `lorapar chat NAME@candidate --system system2`
    """
    with ending("a conversation is not kept"), _pair(adapter, where, model, [system]) as pair:
        out.print(f"base model {pair.adapter.model.name}, adapter {adapter}; /new starts again, an empty line ends")
        histories: dict[bool, list[Turn]] = {True: [], False: []}
        for text in _typed():
            if text == "/new":
                histories = {True: [], False: []}
                continue
            _turn(pair, text, histories, system, max_tokens)


def _typed() -> Iterator[str]:
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise BadInputError(f"chat: the question is not UTF-8 (byte {error.object[error.start]:#04x})") from None
        if not text:
            return
        _check_text("chat: the question", text)
        yield text


def _check_text(what: str, text: str) -> None:
    """Refuse what no file can hold: Python reads a byte that is not UTF-8 as half a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInputError(f"{what} is not UTF-8 (at character {error.start + 1}); type or save it as UTF-8") from None


def _check_output(output: Path) -> None:
    """Refuse, before any model is loaded, a file that cannot be written."""
    from lorapar.store import make_writable_folder, storage_errors

    if output.is_dir():
        raise BadInputError(f"--output {output}: is a folder; name a file in it")
    with storage_errors(output):
        if not output.exists():
            make_writable_folder(output.parent)
        elif not os.access(output, os.W_OK):  # its folder need not be writable, as that of /dev/stdout is not
            raise StorageError(f"{output}: cannot be written; choose another file")


@contextmanager
def _pair(name: str, where: str | None, model: Path | None, systems: Sequence[System | None]) -> Iterator[Pair]:
    """Base and adapter in memory; a version of a registry is fetched as long as that takes.

    Raises BadInputError for a system that the adapter's run did not have.
    """
    from lorapar.progress import Silent
    from lorapar.serving.here import open_pair

    need_torch("ask and chat")
    with local_adapter(name, where, model) as found:
        known = found.prompts.systems
        for system in systems:
            if system is not None and system not in known:
                raise BadInputError(
                    f"'{system}' is no system of {name}{nearest(system, list(known))}; it was trained for "
                    f"{', '.join(known)}"
                )
        with open_pair(found, Silent()) as pair:
            yield pair


def need_torch(what: str) -> None:
    """Raise BadInputError where this is an install without torch."""
    if find_spec("torch") is None or find_spec("peft") is None:
        raise BadInputError(f"{what} need torch and peft, which are not installed here; {pip_install('train')}")


@contextmanager
def local_adapter(name: str, where: str | None, model: Path | None) -> Iterator[LocalAdapter]:
    """The adapter that a person names: a folder that is there, or a version of a registry, fetched for a while."""
    from lorapar.registry.start import Kind, kind_of
    from lorapar.serving.here import read_adapter

    if model is not None and not model.is_dir():
        raise BadInputError(f"--model: there is no folder '{model}' on this machine")
    if Path(name).expanduser().is_dir() or (kind_of(name) is Kind.FOLDER and "/" not in name):
        yield read_adapter(name, Path(name).expanduser(), model)
        return
    if "/" in name:  # no name in a registry has one
        raise BadInputError(
            f"{name}: there is no such folder; give the folder of an adapter on this machine (a run has it as "
            "`adapter`), or NAME, NAME@3 or NAME@ALIAS of a registry"
        )
    registry = _registry_for(name, where)
    with tempfile.TemporaryDirectory(prefix="lorapar-") as scratch:
        folder = Path(scratch) / "adapter"
        version = registry.pull(name, folder)
        yield read_adapter(str(version), folder, model)


def _registry_for(name: str, where: str | None) -> Registry:
    """The registry to look a name up in; a name without a version may be a mistyped folder."""
    try:
        return open_registry(where)
    except BadInputError as error:
        if "@" in name:
            raise
        raise BadInputError(f"{name}: there is no such folder, and for a name in a registry: {error}") from None


def _rows(file: Path, system: System | None) -> Iterator[_Row]:
    """(id, question, system) of each line; every line is looked at before anything is computed."""
    # Not splitlines: JSON strings may hold other line separators, such as U+2028.
    lines = [(number, line) for number, line in enumerate(_text_of(file).split("\n"), 1) if line.strip()]
    if not lines:
        raise BadInputError(f"--file {file}: holds no question")
    for number, line in lines:
        yield _row(f"{file}:{number}", number, line, system)


def _text_of(file: Path) -> str:
    """The text of a file or, for `-`, of standard input; raises BadInputError naming the line that is not UTF-8."""
    from lorapar.store import storage_errors

    with storage_errors(file):
        if str(file) == "-":
            data = sys.stdin.buffer.read()
        elif file.is_file():
            data = file.read_bytes()
        else:
            raise BadInputError(f"--file {file}: there is no such file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInputError(f"{file}:{line}: not UTF-8 (byte {data[error.start]:#04x}); save it as UTF-8") from None


def _row(place: str, number: int, line: str, system: System | None) -> _Row:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise BadInputError(f'{place}: no JSON ({error}); write a line as {{"question": "..."}}') from None
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise BadInputError(f"{place}: has no text under 'question'")
    _check_text(f"{place}: question", row["question"])
    own = row.get("system", system)
    if own is not None and not isinstance(own, str):
        raise BadInputError(f"{place}: system is {own!r}: write the name of a system or nothing")
    return str(row.get("id", number)), row["question"], own


def _answers(pair: Pair, rows: Sequence[_Row], limit: int, *, base: bool) -> Iterator[AskedDocument]:
    from lorapar.cli.documents import AskedDocument
    from lorapar.cli.fill_documents import answer_document
    from lorapar.serving.here import question

    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        questions, systems = [question(text, name) for name, text, _ in batch], [system for *_, system in batch]
        theirs = pair.ask(questions, systems, limit, base=True) if base else [None] * len(batch)
        ours = pair.ask(questions, systems, limit, base=False)
        for (name, text, system), before, after in zip(batch, theirs, ours, strict=True):
            yield AskedDocument(
                id=name,
                question=text,
                system=system,
                base=None if before is None else answer_document(before),
                adapter=answer_document(after),
            )


def _write(pair: Pair, rows: Sequence[_Row], output: Path | None, limit: int, *, base: bool) -> None:
    """A line an answer, as each is there, so that those of a killed command are kept."""
    from lorapar.cli.answers_file import AnswersFile
    from lorapar.store import storage_errors

    if output is None:
        with ending("what is printed is finished, and the same command begins again"):
            for one in _answers(pair, rows, limit, base=base):
                typer.echo(one.model_dump_json())
        return
    with storage_errors(output):
        file = AnswersFile(output, _digest(pair.adapter, rows, limit, base=base), len(rows))
        with ending(file.kept):
            file.write(lambda start: _answers(pair, rows[start:], limit, base=base), _BATCH)
    err.print_line(f"{len(rows)} {'answer' if len(rows) == 1 else 'answers'}: {output}", "green")


def _digest(adapter: LocalAdapter, rows: Sequence[_Row], limit: int, *, base: bool) -> str:
    """What answers depend on: those of another adapter, of other rows or of other options are not gone on from."""
    from lorapar.records import digest_of
    from lorapar.store import file_sha256

    files = [file_sha256(file) for file in sorted(adapter.folder.iterdir()) if file.is_file()]
    asked = [adapter.model.model_dump(mode="json"), adapter.prompts.model_dump(mode="json"), limit, base]
    return digest_of([__version__, files, asked, [list(row) for row in rows]])


def _show(asked: AskedDocument) -> None:
    from lorapar.terminal import harmless

    for name, answer in (("base", asked.base), ("adapter", asked.adapter)):
        if answer is not None:
            out.print(f"{name}:", style="bold", highlight=False)
            text = harmless(answer.text) + (" [cut off]" if answer.cut_off else "")
            out.print(text, markup=False, highlight=False, soft_wrap=True)


def _turn(pair: Pair, text: str, histories: dict[bool, list[Turn]], system: System | None, limit: int) -> None:
    """One question to both; each side's history gets the question and its own answer."""
    from lorapar.records import Turn as Message
    from lorapar.serving.here import question
    from lorapar.terminal import Column, SideBySide

    with SideBySide(out.console, ("base", "adapter"), redraws=out.is_terminal) as shown:
        for place, base in enumerate((True, False)):
            asked = question(text, history=histories[base])
            column = Column(shown, place, pair.text)
            (answer,) = pair.ask([asked], [system], limit, base=base, streamer=column)
            shown.finish(place, answer.text + (" [cut off]" if answer.cut_off else ""))
            histories[base] += [Message(role="user", content=text), Message(role="assistant", content=answer.text)]
