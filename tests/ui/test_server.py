"""What the site answers: pages, filters, headers, names from outside, a proxy, and problems in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from lorapar.cli import app as cli
from lorapar.errors import BadInputError, UnreachableError
from lorapar.extras import pip_install
from lorapar.local.live import LiveNode
from lorapar.registry import Registry
from lorapar.ui import pages
from lorapar.ui.runs import FolderRuns, open_runs
from lorapar.ui.server import REPORT_POLICY, check_root_path, hosts_of, make_app
from tests.ui.conftest import Make, metrics, settings, store_run

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def site(root: Path, registry: Registry) -> TestClient:
    return TestClient(make_app(FolderRuns(root), registry), raise_server_exceptions=False)


def plain(page: str) -> str:
    """What a reader sees of a page, on one line."""
    return " ".join(re.sub(r"<[^>]+>", "", page).split())


def everything(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*")}


def test_the_list_shows_figures_and_a_report_is_a_click_away(site: TestClient, root: Path, folder_run: Make) -> None:
    folder_run("mine", metrics("first"), live=LiveNode(node="report", state="finished", ended=True))
    before = everything(root)
    page = site.get("/").text
    for shown in ("mine", "finished", "50.0%", "75.0%", "better than version 3, promoted", "2 min 05 s", "org/base"):
        assert shown in page
    assert 'href="/runs/mine/report"' in page
    report = site.get("/runs/mine/report")
    assert "report of mine" in report.text
    assert report.headers["content-security-policy"] == REPORT_POLICY
    assert "sandbox" in REPORT_POLICY
    assert "allow-" not in REPORT_POLICY
    assert everything(root) == before, "reading changes nothing"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("text=MINE", {"mine"}),
        ("text=promoted+first", {"mine"}),
        ("state=failed", {"broken"}),
        ("base=org/other", {"broken"}),
        ("text=nobody", set()),
        ("state=unheard-of", set()),
        ("page=99999999999", {"mine", "broken"}),
        ("page=-1", {"mine", "broken"}),
    ],
)
def test_filters(site: TestClient, folder_run: Make, query: str, shown: set[str]) -> None:
    folder_run("mine", metrics("first"), live=LiveNode(node="report", state="finished", ended=True))
    planned = settings(model={"name": "org/other"})
    folder_run("broken", None, planned, LiveNode(node="sft", state="failed", error="no room"))
    page = site.get(f"/?{query}").text
    assert set(re.findall(r'<th scope="row"><a href="/runs/(\w+)"', page)) == shown


def test_a_long_list_has_pages(site: TestClient, folder_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROWS_A_PAGE", 2)
    for number in range(5):
        folder_run(f"run-{number}", metrics("a"))
    page = site.get("/?text=run&page=2").text
    assert len(re.findall('<th scope="row">', page)) == 2
    assert 'href="/?text=run&amp;page=3"' in page
    assert 'href="/?text=run"' in page


def test_two_runs_side_by_side(site: TestClient, root: Path, folder_run: Make) -> None:
    folder_run("one", metrics("one"), settings(seed=1, rl={"kl_beta": 0.04}))
    folder_run("two", metrics("two", accuracy=0.25), settings(seed=2, rl={"kl_beta": 0.08}))
    for run in ("one", "two"):
        history = root / run / "stages" / "sft" / "adapter" / "history.jsonl"
        history.parent.mkdir(parents=True)
        history.write_text("".join(f'{{"step": {n}, "loss": {1 / n}}}\n' for n in range(1, 9)), encoding="utf-8")
    page = site.get("/compare?run=one&run=two").text
    assert re.findall(r"<code>([^<]+)</code>", page) == ["seed", "rl.kl_beta"]
    assert "+25.0" in page
    assert page.count("<polyline") == 4, "a line a run, and the same in the legend"
    assert "RL: reward" not in page


def test_systems_of_your_own_have_their_own_columns(site: TestClient, folder_run: Make) -> None:
    def model(share: float) -> dict[str, Any]:
        named = ("recall", "arithmetic", "naming")
        accuracies = {f"{name}_accuracy": share for name in named}
        return {**accuracies, **{f"{name}_rows": 4 for name in named}, "seconds_per_answer": 0.1}

    named = {"base": model(0.25), "after_sft": model(0.5), "after_rl": model(0.75)}
    folder_run("named", metrics("named", **named))
    folder_run("plain", metrics("plain"))
    text = plain(site.get("/").text)
    assert all(name in text for name in ("recall", "arithmetic", "naming", "System 1", "System 2"))
    assert "25.0% → 75.0%" in text
    assert "25.0% → 75.0%" in plain(site.get("/runs/named").text)
    assert "arithmetic" in plain(site.get("/compare?run=named&run=plain").text)


@pytest.mark.parametrize("query", ["", "run=one", "run=one&run=one", "run=one&run=two&run=three"])
def test_other_than_two_runs_are_refused_in_words(site: TestClient, query: str) -> None:
    answer = site.get(f"/compare?{query}")
    assert answer.status_code == 400
    assert "Choose two runs" in answer.text


def test_a_run_while_it_goes_on(site: TestClient, folder_run: Make) -> None:
    history = [{"step": float(n), "loss": 0.1, "reward": 0.1 * n} for n in range(1, 5)]
    rollouts = [{"step": 4, "question": "7 + 5?", "completion": HOSTILE, "reward": None}]
    live = LiveNode(node="rl", title="tuning", done=4, total=8, seconds_left=90, history=history, rollouts=rollouts)
    folder_run("mine", live=live)
    page = site.get("/runs/mine").text
    for shown in (
        "rl: tuning, 4 of 8, about 1 min 30 s left",
        "RL: reward",
        "7 + 5?",
        '<td class="n">none</td>',
        'data-every="5"',
    ):
        assert shown in page
    assert HOSTILE not in page
    assert "<noscript><meta http-equiv" in page


def test_adapters_with_aliases_and_every_move(site: TestClient) -> None:
    assert "production → 1" in site.get("/adapters").text
    page = site.get("/adapters/assistant").text
    assert "rollback: answers &lt;b&gt;too&lt;/b&gt; long" in page
    assert page.index("rollback") < page.index("the first"), "the newest move first"


@pytest.mark.parametrize(
    "path",
    [
        "/runs/nobody", "/runs/nobody/report", "/runs/..%2f..%2fetc%2fpasswd/report", "/runs/%2e%2e/report", "/nowhere",
        "/runs/.", "/compare?run=nobody&run=none", "/adapters/nobody", "/adapters/..%2f..", "/adapters/A%00",
        "/static/x", "/static/..%2fserver.py",
    ],
)  # fmt: skip
def test_what_is_not_there_is_404(site: TestClient, path: str) -> None:
    assert site.get(path).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(site: TestClient, method: str) -> None:
    for path in ("/", "/compare", "/adapters", "/healthz"):
        assert site.request(method, path).status_code == 405


def test_every_answer_says_what_a_browser_may_do(site: TestClient, folder_run: Make) -> None:
    folder_run("mine", metrics("a"))
    for path in ("/", "/runs/mine", "/runs/mine/report", "/adapters", "/nowhere", "/static/ui.js", "/healthz"):
        headers = site.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    policy = site.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_names_and_errors_are_text(site: TestClient, folder_run: Make) -> None:
    folder_run("mine", metrics(HOSTILE), None, LiveNode(node="rl", state="failed", error=HOSTILE))
    for path in ("/", "/runs/mine", f"/?text={HOSTILE}", f"/runs/{HOSTILE}"):
        assert HOSTILE not in site.get(path).text


def test_credentials_are_blanked_on_every_page(
    site: TestClient, root: Path, folder_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "very&secret'value"
    monkeypatch.setenv("TEACHER_API_KEY", secret)
    planned = settings(data={"source": f"s3://u:p4ssw0rd@host/{secret}.jsonl"})
    folder = folder_run("mine", metrics("a"), planned, LiveNode(node="rl", warnings=[f"warning: {secret}"]))
    (folder / "report.html").write_text(f"<p>{secret}", encoding="utf-8")
    folder_run("other", metrics("b"))
    for path in ("/", "/runs/mine", "/compare?run=mine&run=other", "/runs/mine/report", f"/?text={quote(secret)}"):
        text = site.get(path).text
        assert "secret" not in text, path
        assert "p4ssw0rd" not in text, path
        assert "[redacted]" in text, path


def test_no_page_loads_anything_from_elsewhere(site: TestClient, folder_run: Make) -> None:
    folder_run("mine", metrics("a"))
    for path in ("/", "/runs/mine", "/adapters", "/static/ui.css", "/static/ui.js"):
        text = site.get(path).text
        assert not re.findall(r"(?:src|href)=\"(?:https?:)?//|url\(|@import", text)


@pytest.mark.parametrize("asked", ["/team/runs/mine", "/runs/mine"])
def test_behind_a_proxy_with_a_prefix(root: Path, folder_run: Make, asked: str) -> None:
    folder_run("mine", metrics("a"))
    page = TestClient(make_app(FolderRuns(root), None, "/team/")).get(asked)
    assert page.status_code == 200
    assert {one.split("/")[1] for one in re.findall(r'(?:href|src)="(/[^"]*)"', page.text)} == {"team"}


@pytest.mark.parametrize("root_path", ["team", "//elsewhere", '/a"b', "/a?b", "/ä"])
def test_a_wrong_prefix_is_refused(root_path: str) -> None:
    with pytest.raises(BadInputError, match="--root-path"):
        check_root_path(root_path)


@pytest.mark.parametrize(("host", "status"), [("localhost:8765", 200), ("[::1]:8765", 200), ("evil.example", 400)])
def test_a_page_elsewhere_cannot_read_through_a_name_of_its_own(root: Path, host: str, status: int) -> None:
    site = TestClient(make_app(FolderRuns(root), None, hosts=hosts_of("127.0.0.1", ())))
    assert site.get("/", headers={"host": host}).status_code == status
    assert hosts_of("0.0.0.0", ()) == ["*"]  # noqa: S104
    assert "lorapar.example.com" in hosts_of("127.0.0.1", ["lorapar.example.com"])


def test_a_store_that_does_not_answer_is_one_line_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_run(tmp_path, "a-run", {"succeeded": True}, metrics("a"))
    runs = open_runs(str(tmp_path))

    def refuse(prefix: str = "") -> None:
        raise UnreachableError("s3://bucket: Bearer abcdefghijkl refused")

    monkeypatch.setattr(runs._store, "list", refuse)
    answer = TestClient(make_app(runs, None)).get("/")
    assert answer.status_code == 502
    assert "Bearer [redacted] refused" in answer.text


def test_a_bug_is_not_reported_to_the_browser(site: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "runs_page", lambda *_: 1 / 0)
    answer = site.get("/")
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text


def test_the_command_serves_until_it_is_told_to_end(root: Path, folder_run: Make) -> None:
    folder_run("mine", metrics("a"))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "lorapar.cli", "ui", str(root), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        with urlopen(found[0]) as page:  # noqa: S310
            assert b"mine" in page.read()
        server.send_signal(signal.SIGTERM)
        out, error = server.communicate(timeout=60)
    assert (server.returncode, out, error) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["gs://bucket"], "gs://bucket: not an address lorapar knows"),
        ([".", "--root-path", "x"], "--root-path x"),
        ([".", "--host", "256.0.0.1", "--port", "0"], "--host 256.0.0.1"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["ui", *arguments])
    assert isinstance(result.exception, BadInputError)
    assert message in str(result.exception)


def test_without_its_packages_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lorapar.ui.server", None)
    monkeypatch.delitem(sys.modules, "lorapar.ui.server")
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(cli, ["ui", str(tmp_path)])
    assert isinstance(result.exception, BadInputError)
    assert pip_install("ui") in str(result.exception)
