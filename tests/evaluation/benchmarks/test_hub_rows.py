"""Rows of built-in benchmarks from a hub: a small server in the place of the real one, the real client and datasets."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import datasets
import pytest
from huggingface_hub import constants

from lorapar.config import BenchmarkConfig, EvaluateConfig
from lorapar.errors import BadInputError, UnreachableError
from lorapar.evaluation.benchmarks import check_benchmarks, resolve_benchmarks

COMMIT = "c" * 40
ROWS = [{"question": f"{number}?", "answer": f"so #### {number}"} for number in range(6)]


class Hub(ThreadingHTTPServer):
    """Serves one data set, in JSON Lines by split."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.splits = {"test": ROWS, "train": ROWS}
        self.gated = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self) -> dict[str, bytes]:
        listed = [{"split": split, "path": f"main/{split}.jsonl"} for split in self.splits]
        card = f"---\nconfigs: {json.dumps([{'config_name': 'main', 'data_files': listed}])}\n---\n"
        rows = {f"main/{split}.jsonl": "\n".join(map(json.dumps, rows)) for split, rows in self.splits.items()}
        return {name: text.encode() for name, text in {"README.md": card, **rows}.items()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path, files = unquote(urlsplit(self.path).path), self.server.files()
        _, resolved, name = path.partition(f"/resolve/{COMMIT}/")
        if path.endswith("/auth-check") or resolved:
            if self.server.gated:
                self.answer(403, b"{}", X_Error_Code="GatedRepo")
            elif resolved and name in files:
                self.answer(200, files[name], ETag=f'"{name}"', X_Repo_Commit=COMMIT)
            elif not resolved:
                self.answer(200, b"{}")
            else:
                self.answer(404, b"{}", X_Error_Code="EntryNotFound")
        elif "/tree/" in path:
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()]
            self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        else:
            message = {"id": "openai/gsm8k", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            self.answer(200, json.dumps(message).encode(), Content_Type="application/json")

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAPAR_CACHE", str(tmp_path / "lorapar"))
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.address)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        try:
            yield server
        finally:
            server.shutdown()


def asked(**options) -> EvaluateConfig:
    return EvaluateConfig(benchmarks=(BenchmarkConfig(task="gsm8k", **options),))


def test_rows_are_read_before_anything_is_trained_and_then_without_the_hub(hub, monkeypatch) -> None:
    (found,) = check_benchmarks(asked(few_shot=2), 0)
    assert len(found.rows) == 4, "the examples are not asked"
    first = resolve_benchmarks(asked())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert resolve_benchmarks(asked()) == first
    (again,) = check_benchmarks(asked(few_shot=2), 0)
    assert again.digest == found.digest


def test_row_that_cannot_be_asked_is_reported_by_its_place(hub) -> None:
    hub.splits = {"test": [*ROWS, {"question": "6?", "answer": "six"}], "train": ROWS}
    with pytest.raises(BadInputError, match=r"^hub:openai/gsm8k \(test\), row 7: answer ends in 'six'"):
        check_benchmarks(asked(), 0)


def test_split_that_is_not_there_any_more_is_reported(hub) -> None:
    hub.splits = {"validation": ROWS}
    with pytest.raises(
        BadInputError, match=r"^evaluate.benchmarks: gsm8k: openai/gsm8k \(test\) cannot be read: .*split"
    ):
        check_benchmarks(asked(), 0)


def test_too_few_worked_examples_are_reported(hub) -> None:
    with pytest.raises(BadInputError, match="gsm8k has fewer worked examples than 9: 6 in the hub"):
        check_benchmarks(asked(few_shot=9), 0)


@pytest.mark.parametrize("installed", [True, False])
def test_gated_data_set_is_reported_with_and_without_datasets(hub, monkeypatch, installed) -> None:
    """Its commits can be asked for by everybody, so that only its files tell; the client image has no datasets."""
    hub.gated = True
    if not installed:
        monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises((BadInputError, UnreachableError), match=r"^evaluate.benchmarks: gsm8k: .*gated"):
        check_benchmarks(asked(), 0)


def test_without_datasets_a_data_set_that_may_be_read_is_enough(hub, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert check_benchmarks(asked(), 0) == []
