"""`lorapar ask`, `lorapar chat` and `lorapar export --merged` on the adapter of the tiny run."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import jsonschema
import pytest
import torch
import typer.testing
from rich.console import Console

from lorapar.cli import app
from lorapar.cli.answers_file import AnswersFile
from lorapar.cli.ask import _show, _typed
from lorapar.cli.documents import AskedDocument, SaidDocument
from lorapar.config import ModelConfig, PromptConfig
from lorapar.errors import BadInputError, ExitCode, StoppedError
from lorapar.serving.here import LocalAdapter, Pair, Reply, question, read_adapter
from lorapar.terminal import Column, SideBySide


def call(*arguments: str | Path, typed: str | None = None) -> str:
    """What the command prints; its errors are raised."""
    result = typer.testing.CliRunner().invoke(app, [*map(str, arguments)], input=typed, catch_exceptions=False)
    assert result.exit_code == ExitCode.OK, result.output
    return result.stdout


def test_one_question_to_both_and_to_a_version_of_a_registry(tiny_run, monkeypatch) -> None:
    message = call("ask", tiny_run / "adapter", "Why?", "--max-tokens", "3")
    assert message.index("base:") < message.index("adapter:")
    monkeypatch.setenv("LORAPAR_REGISTRY", str(tiny_run.parent / "registry"))
    asked = json.loads(call("ask", "tiny@candidate", "Why?", "--max-tokens", "3", "--system", "system2", "--json"))
    jsonschema.validate(asked, AskedDocument.model_json_schema(mode="serialization"))
    assert (asked["system"], asked["adapter"]["tokens"]) == ("system2", 3)
    alone = json.loads(call("ask", "tiny@1", "Why?", "--max-tokens", "3", "--no-base", "--json"))
    assert alone["base"] is None


def test_a_file_of_questions_is_answered_line_by_line_in_its_order(tiny_run, tmp_path) -> None:
    rows = [{"id": "first", "question": "Why?"}, {"question": "How much is 2 plus 2?", "system": "system2"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    options = ("--max-tokens", "2", "--system", "system1")
    call("ask", tiny_run / "adapter", "--file", tmp_path / "rows.jsonl", "-o", tmp_path / "out.jsonl", *options)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["id"], line["system"]) for line in lines] == [("first", "system1"), ("3", "system2")]
    printed = call("ask", tiny_run / "adapter", "--file", "-", *options, typed=json.dumps(rows[0]))
    assert json.loads(printed) == lines[0]


class Answering:
    """In a Pair's place: answers with the question, and is stopped as by Ctrl-C once it was asked so often."""

    def __init__(self, folder: Path, calls: int) -> None:
        self.adapter = LocalAdapter("mine", folder, ModelConfig(), PromptConfig())
        self._left = iter(range(calls))

    def ask(self, questions, systems, limit, *, base):
        if next(self._left, None) is None:
            raise KeyboardInterrupt
        return [Reply(one.question, 1, cut_off=False) for one in questions]


def test_a_stopped_command_keeps_its_answers_and_the_same_one_goes_on(tmp_path, monkeypatch) -> None:
    (tmp_path / "adapter").mkdir()
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_text("weights")

    def asked_until(calls: int, *options: str | Path) -> None:
        pair = Answering(weights.parent, calls)
        monkeypatch.setattr("lorapar.cli.ask._pair", lambda *_: nullcontext(pair))
        call("ask", "mine", "--file", rows, "--max-tokens", "2", "--no-base", "-o", *options)

    rows, output, whole = tmp_path / "rows.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{number}?"}) + "\n" for number in range(5)))
    monkeypatch.setattr("lorapar.cli.ask._BATCH", 2)
    asked_until(3, whole)
    output.write_text("of an earlier command\n")
    with pytest.raises(StoppedError, match=r"^interrupted; 4 of 5 answers are kept in .*, run the same command"):
        asked_until(2, output)
    assert output.read_text() == "of an earlier command\n"
    for different in (["--system", "system2"], ["--max-tokens", "3"], ["--base"]):
        with pytest.raises(StoppedError, match="0 of 5 answers are kept"):
            asked_until(0, output, *different)
    weights.write_text("other weights")
    with pytest.raises(StoppedError, match="0 of 5 answers are kept"):
        asked_until(0, output)
    weights.write_text("weights")
    asked_until(1, output)  # the last row alone is left
    assert output.read_text() == whole.read_text()


def answers(count: int) -> Iterator[AskedDocument]:
    for number in range(count):
        said = SaidDocument(text=str(number), tokens=1, cut_off=False)
        yield AskedDocument(id=str(number), question="Why?", system=None, base=None, adapter=said)


def test_half_a_line_and_half_a_batch_are_answered_again(tmp_path) -> None:
    file = AnswersFile(tmp_path / "out.jsonl", "digest", 9)
    lines = [one.model_dump_json() + "\n" for one in answers(7)]
    (tmp_path / "out.jsonl.digest.partial").write_text("".join(lines)[:-3])
    begun: list[int] = []
    file.write(lambda start: begun.append(start) or answers(9 - start), 4)
    assert begun == [4]
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 9


@pytest.mark.parametrize("kind", ["device", "link"])
def test_what_is_no_file_of_its_own_keeps_its_place(tmp_path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    with (tmp_path / "file").open() as opened:
        output = Path(f"/dev/fd/{opened.fileno()}") if kind == "device" else tmp_path / "link"
        if kind == "link":
            output.symlink_to("file")
        before = (tmp_path / "file").stat().st_ino
        written = AnswersFile(output, "digest", 1)
        written.write(lambda _: answers(1), 8)
        if kind == "device":
            assert written.kept() == f"1 of 1 answers are in {output}; the same command begins again"
    assert json.loads((tmp_path / "file").read_text())["id"] == "0"
    assert kind == "device" or output.is_symlink()
    assert (before == (tmp_path / "file").stat().st_ino) == (kind == "device")


def test_a_stopped_chat_and_watch_say_what_is_kept(tmp_path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise ModuleNotFoundError("could not import module") from stop  # as transformers does

    monkeypatch.setattr("lorapar.cli.ask.need_torch", stop)
    with pytest.raises(StoppedError, match=r"^interrupted; a conversation is not kept$"):
        call("chat", tmp_path)
    with pytest.raises(StoppedError, match=r"^interrupted; nothing was answered yet, run the same command again$"):
        call("ask", tmp_path, "Why?")
    monkeypatch.setattr("lorapar.local.live.Watcher", stop)
    with pytest.raises(StoppedError, match=r"^interrupted; only watching ended, the run is not touched$"):
        call("watch", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "Why?"}\n{"question": ""}\n', r"rows\.jsonl:2: has no text under 'question'"),
        ("Why?\n", r"rows\.jsonl:1: no JSON"),
        ('{"question": "Why?", "system": 3}\n', r"rows\.jsonl:1: system is 3: write the name of a system"),
        ("\n", r"rows\.jsonl: holds no question"),
        ('{"question": "\\ud800"}\n', r"rows\.jsonl:1: question is not UTF-8 \(at character 1\)"),
        (
            '{"question": "Why?"}\r\n{"question": "caf\u00e9"}\r\n',
            r"rows\.jsonl:2: not UTF-8 \(byte 0xe9\); save it as",
        ),
        ('{"question": "one\u2028two", "system": 3}\n', r"rows\.jsonl:1: system is 3"),
    ],
)
def test_a_file_is_looked_through_before_anything_is_computed(tmp_path, text: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(text.encode("latin-1" if "\u00e9" in text else "utf-8"))
    with pytest.raises(BadInputError, match=message):
        call("ask", tmp_path / "no-adapter", "--file", tmp_path / "rows.jsonl")


def test_a_system_that_the_adapter_does_not_know_is_refused(tiny_run) -> None:
    with pytest.raises(BadInputError, match=r"'system3' is no system of .*; it was trained for system1, system2"):
        call("ask", tiny_run / "adapter", "Why?", "--system", "system3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "x"], "give one question, or --file"),
        (["ask", "x", "Why?", "-o", "out.jsonl"], "--output is for --file"),
        (["ask", "x", "Why?", "--model", "nowhere"], "there is no folder 'nowhere'"),
        (["export", "x"], "--kserve, --gateway POOL, --merged DIR"),
        (["export", "x", "--merged", "out", "--base", "pvc://a/b"], "--base is for --kserve"),
        (["export", "x", "--kserve", "--model", "here"], "--model is for --merged"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        call(*arguments)


def test_a_conversation_is_kept_until_it_begins_anew(tiny_run, monkeypatch) -> None:
    asked: list[int] = []
    real = Pair.ask

    def counted(self, questions, *more, **options):
        asked.append(len(questions[0].history or ()))
        return real(self, questions, *more, **options)

    monkeypatch.setattr(Pair, "ask", counted)
    message = call("chat", tiny_run / "adapter", "--max-tokens", "2", typed="Why?\nAnd?\n/new\nWhy?\n\nnot asked\n")
    assert asked == [0, 0, 2, 2, 0, 0]
    assert message.count("base: ") == message.count("adapter: ") == 3


def test_what_is_typed_in_another_encoding_is_one_line(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    with pytest.raises(BadInputError, match=r"chat: the question is not UTF-8 \(byte 0xe9\)"):
        list(_typed())


def test_a_question_longer_than_the_model_reads_is_one_line(tiny_run) -> None:
    pair = Pair(read_adapter("tiny", tiny_run / "adapter", None), None, None, longest=4096)
    pair._require_fit(question("Why?"), 4095)
    with pytest.raises(BadInputError, match=r"'Why.*' has 4096 tokens .* reads at most 4096 at once; shorten it"):
        pair._require_fit(question("Why? " * 40), 4096)


def test_columns_grow_side_by_side_at_a_terminal() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=60)
    with SideBySide(screen, ("base", "adapter"), redraws=True) as shown:
        for place, letters in enumerate(("no", "yes")):
            column = Column(shown, place, lambda tokens: "".join(map(chr, tokens)))
            for tokens in (torch.tensor([[1, 2, 3]]), *(torch.tensor([ord(letter)]) for letter in letters)):
                column.put(tokens)
            column.end()
    last = screen.file.getvalue().rpartition("adapter")[2]
    assert "no" in last
    assert "yes" in last


def test_no_escape_sequence_of_a_model_reaches_the_terminal(capsys) -> None:
    written = "a\x1b]0;title\x07\x9b2J\tb\u3000c\n"
    answer = SaidDocument(text=written, tokens=9, cut_off=False)
    _show(AskedDocument(id="1", question="Why?", system=None, base=None, adapter=answer))
    screen = Console(file=io.StringIO(), force_terminal=True, width=60)
    with SideBySide(screen, ("base",), redraws=False) as shown:
        shown.finish(0, written)
    for printed in (capsys.readouterr().out, screen.file.getvalue()):
        assert "a?]0;title??2J" in printed
        assert "b\u3000c" in printed


def test_merged_goes_into_a_new_folder(tiny_run, tmp_path) -> None:
    arguments = ["export", str(tiny_run / "adapter"), "--merged", str(tmp_path / "model")]
    result = typer.testing.CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "no logit differs" in result.stdout
    assert "it/s" not in result.output, "transformers draws no bar of its own"
    with pytest.raises(BadInputError, match="is not empty"):
        call("export", tiny_run / "adapter", "--merged", tmp_path / "model")


def test_what_cannot_be_asked_or_written_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Why?"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LORAPAR_REGISTRY", raising=False)
    with pytest.raises(BadInputError, match="is a folder; name a file in it"):
        call("ask", "nowhere", "--file", rows, "-o", tmp_path)
    with pytest.raises(BadInputError, match="nowhere: there is no such folder, and for a name in a registry: which"):
        call("ask", "nowhere", "--file", rows, "-o", tmp_path / "new" / "out.jsonl")
    for mistyped in ("runs/min/adapter", "./adpater", "s3://bucket/adapter"):
        with pytest.raises(BadInputError, match=f"^{mistyped}: there is no such folder; give the folder of an adapter"):
            call("ask", mistyped, "Why?", "--registry", tmp_path)
    with pytest.raises(BadInputError, match=r"the question is not UTF-8 \(at character 3\)"):
        call("ask", "nowhere", "hi\udcff")
