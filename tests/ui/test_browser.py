"""The page in a real Chromium: news of a run come by themselves, keyboard, phone, dark, no script, a hostile report."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from lorapar.local.live import LiveNode
from lorapar.registry import Registry
from lorapar.ui import pages
from lorapar.ui.runs import FolderRuns
from lorapar.ui.server import make_app
from tests.ui.browser import CHROMIUM, Browser
from tests.ui.conftest import Make, metrics, write

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.fixture
def address(root: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The site over `root`, looked at again after a second."""
    monkeypatch.setattr(pages, "FAST_SECONDS", 1)
    config = uvicorn.Config(make_app(FolderRuns(root), registry), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_news_of_a_run_come_by_themselves_and_choices_stay(
    browser: Browser, address: str, root: Path, folder_run: Make
) -> None:
    folder_run("going-on", live=LiveNode(node="sft", title="tuning"))
    folder_run("other", metrics("b"), live=LiveNode(node="report", state="finished", ended=True))
    browser.open(address)
    assert "sft: tuning" in browser.run("document.body.innerText")
    browser.run("document.getElementById('pick-other').click(); document.getElementById('pick-going-on').focus()")
    write(root / "going-on" / "live.json", LiveNode(node="rl", title="rewards").model_dump(mode="json"))
    browser.wait(lambda: "rl: rewards" in browser.run("document.body.innerText"))
    assert browser.run("document.getElementById('pick-other').checked") is True
    assert browser.run("document.activeElement.id") == "pick-going-on"
    assert {one.split("/")[2] for one in browser.asked if one.startswith("http")} == {address.split("/")[2]}


def test_two_runs_are_chosen_and_compared_with_keys_alone(browser: Browser, address: str, folder_run: Make) -> None:
    for name in ("one", "two"):
        folder_run(name, metrics(name))
    browser.open(address)
    for name in ("one", "two"):
        for _ in range(40):
            browser.press("Tab", 9)
            if browser.run("document.activeElement.value") == name:
                break
        browser.press(" ", 32)
    for _ in range(40):
        if browser.run("document.activeElement.textContent").startswith("Compare"):
            break
        browser.press("Tab", 9)
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", "focus can be seen"
    browser.press("Enter", 13)
    browser.wait(lambda: "side by side" in str(browser.run("document.querySelector('h1')?.textContent")))
    assert browser.run("location.search").count("run=") == 2


@pytest.mark.parametrize("path", ["/", "/runs/one", "/compare?run=one&run=two", "/adapters", "/adapters/assistant"])
def test_a_phone_shows_every_page_without_moving_sideways(
    browser: Browser, address: str, folder_run: Make, path: str
) -> None:
    for name in ("one", "two"):
        folder_run(name, metrics(name + "-with-a-name-that-is-very-long-and-has-no-blank-in-it"))
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        browser.open(address + path)
        assert browser.run("document.documentElement.scrollWidth") <= 360
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 27)"
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
        browser.call("Emulation.setEmulatedMedia", features=[])


def test_a_report_is_of_no_origin_and_runs_no_script(
    browser: Browser, address: str, root: Path, folder_run: Make
) -> None:
    folder = folder_run("mine", metrics("mine"))
    hostile = (
        "<!doctype html><title>before</title><script>document.title='ran'</script><img src=/adapters onerror=x><p>text"
    )
    (folder / "report.html").write_text(hostile, encoding="utf-8")
    browser.answered.clear()
    browser.open(f"{address}/runs/mine/report")
    assert browser.run("document.title") == "before"
    assert browser.run("self.origin") == "null"
    assert browser.answered == [f"{address}/runs/mine/report"]


def test_without_script_the_page_still_works(browser: Browser, address: str, folder_run: Make) -> None:
    folder_run("mine", metrics("mine"))
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(f"{address}/?text=mine&state=&base=")
        assert "better than version 3" in browser.run("document.body.innerText")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
