"""What the hub answers, what its local cache holds, and what is said where it is silent.

The real client of the hub talks to a small server here that answers as the hub does.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from lorapar.basemodel import hub, resolve_model, wheel
from lorapar.config import ModelConfig
from lorapar.errors import BadInputError, UnreachableError
from lorapar.progress import Silent

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAFE = [{"rfilename": "config.json"}, {"rfilename": "model-00001-of-00002.safetensors"}]
ANSWERS = {
    "/api/models/someone/model": (200, None, SAFE),
    "/api/models/someone/model/revision/v1": (200, None, SAFE),
    "/api/models/someone/model/revision/v9": (404, "RevisionNotFound", []),
    "/api/models/someone/pickled": (200, None, [{"rfilename": "pytorch_model.bin"}]),
    "/api/models/someone/gated": (403, "GatedRepo", []),
    "/api/models/someone/missing": (404, "RepoNotFound", []),
    "/api/models/someone/broken": (500, None, []),
}


class Hub(BaseHTTPRequestHandler):
    """Answers from the table above; anything slow waits longer than anybody asks."""

    def do_GET(self):
        if "slow" in self.path:
            time.sleep(2)
        status, code, files = ANSWERS.get(self.path.split("?")[0], (404, "RepoNotFound", []))
        body = json.dumps({"id": "someone/model", "sha": COMMIT, "siblings": files}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub_server(monkeypatch, tmp_path):
    """A hub that answers, and an empty local cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub that nobody can reach, and an empty local cache; returns the cache."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def snapshot(cache, name, files, revision="main", kind="models"):
    """A model in the hub's local cache, laid out as the hub's client does."""
    folder = cache / f"{kind}--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text(COMMIT)
    made = folder / "snapshots" / COMMIT
    made.mkdir(parents=True)
    for file, text in files.items():
        (made / file).write_text(text)
    return made


WHOLE = {"config.json": "{}", "tokenizer_config.json": "{}", "model.safetensors": ""}


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_revision_becomes_a_commit(hub_server, revision):
    resolved = resolve_model(ModelConfig(name="someone/model", revision=revision))
    assert resolved.revision == COMMIT
    assert resolved.digest is not None


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("someone/model", "v9", r"model\.revision: someone/model has no branch, tag or commit 'v9'"),
        ("someone/missing", None, r"model\.name: there is no 'someone/missing' on the hub.*HF_TOKEN"),
        ("someone/gated", None, r"model\.name: someone/gated is gated; accept its conditions.*HF_TOKEN"),
        ("someone/pickled", None, r"model\.name: someone/pickled holds no \.safetensors weights"),
    ],
)
def test_a_no_of_the_hub_is_one_line(hub_server, name, revision, message):
    with pytest.raises(BadInputError, match=message):
        resolve_model(ModelConfig(name=name, revision=revision))


@pytest.mark.parametrize("name", ["someone/broken", "someone/slow"])
def test_a_hub_that_fails_or_takes_too_long_is_unreachable(hub_server, monkeypatch, name):
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.3)
    with pytest.raises(UnreachableError, match=rf"the hub did not answer for {name} .* name a local folder instead"):
        resolve_model(ModelConfig(name=name))


def test_a_hub_that_keeps_a_process_waiting_is_asked_once(hub_server, monkeypatch):
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.6)
    asked, plainly = [], hub._asked
    monkeypatch.setattr(hub, "_asked", lambda *what: asked.append(what) or plainly(*what))
    for name in ("someone/slow", "someone/model"):
        with pytest.raises(UnreachableError, match=rf"the hub did not answer for {name} "):
            resolve_model(ModelConfig(name=name))
    assert [name for name, *_ in asked] == ["someone/slow"]
    monkeypatch.setattr(hub, "_SILENT_SECONDS", 0.0)
    hub._silences.clear()
    for _ in range(2):
        with pytest.raises(UnreachableError):
            resolve_model(ModelConfig(name="someone/slow"))
    assert len(asked) == 3  # after a while it is asked again


def test_downloads_from_a_silent_hub_are_waited_for_once(no_hub, monkeypatch):
    asked = []

    def waits(name, *, local_files_only=False, **_):
        if not local_files_only:
            asked.append(name)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "_silences", {})
    monkeypatch.setattr(hub, "_WAITED_SECONDS", 0.0)
    monkeypatch.setattr(hub, "snapshot_download", waits)
    for name in ("someone/model", "someone/other"):
        with pytest.raises(UnreachableError, match=rf"the hub did not answer for {name} "):
            hub.snapshot(ModelConfig(name=name, revision=COMMIT), Silent())
    assert asked == ["someone/model"]


def test_a_download_that_breaks_off_is_no_silence_of_the_hub(hub_server, monkeypatch):
    def breaks_off(name, *, local_files_only=False, **_):
        raise LocalEntryNotFoundError("not here") if local_files_only else ConnectionError("connection reset")

    monkeypatch.setattr(hub, "_silences", {})
    monkeypatch.setattr(hub, "_WAITED_SECONDS", 0.0)
    monkeypatch.setattr(hub, "snapshot_download", breaks_off)
    with pytest.raises(UnreachableError):
        hub.snapshot(ModelConfig(name="someone/model", revision=COMMIT), Silent())
    assert resolve_model(ModelConfig(name="someone/model")).revision == COMMIT


def test_without_a_hub_its_local_cache_serves(no_hub):
    made = snapshot(no_hub, "someone/model", WHOLE)
    resolved = resolve_model(ModelConfig(name="someone/model"))
    assert resolved.revision == COMMIT
    assert hub.snapshot(resolved, Silent()) == made


def test_a_download_cut_short_does_not_serve(no_hub):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    files = {**WHOLE, "model.safetensors.index.json": index, "model-1.safetensors": ""}
    snapshot(no_hub, "someone/model", files)
    with pytest.raises(UnreachableError):
        resolve_model(ModelConfig(name="someone/model"))


def test_a_commit_that_is_there_is_not_asked_about(no_hub, monkeypatch):
    snapshot(no_hub, "someone/model", WHOLE)
    monkeypatch.setattr(hub, "_asked", lambda *_: pytest.fail("the hub was asked"))
    assert hub.commit_of("someone/model", COMMIT, "model") == COMMIT


@pytest.mark.parametrize("revision", [None, "main"])
def test_only_the_default_model_falls_back_to_the_wheel(no_hub, revision):
    resolved = resolve_model(ModelConfig(revision=revision))
    assert resolved.revision == wheel.REVISION
    with pytest.raises(UnreachableError):
        resolve_model(ModelConfig(revision="v1"))


def test_offline_is_reported(no_hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnreachableError, match="HF_HUB_OFFLINE is set"):
        resolve_model(ModelConfig(name="someone/model"))
