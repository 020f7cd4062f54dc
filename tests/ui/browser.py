"""A real Chromium, told what to do over its own debugging pipe: no package of a driver is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_PATIENCE_SECONDS = 60.0


class Browser:
    """One tab. Use it in a `with` block; `profile` is a folder that it fills."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        self._profile, self._last, self._session = profile, 0, ""
        self.asked: list[str] = []
        """Every address that a page has wanted."""
        self.answered: list[str] = []
        """Those that it was let ask, and that answered."""

    def __enter__(self) -> Browser:
        message, tell = os.pipe()
        heard, say = os.pipe()

        def pipes() -> None:  # the browser reads descriptor 3 and writes descriptor 4
            first, second = os.dup(message), os.dup(say)
            os.dup2(first, 3)
            os.dup2(second, 4)

        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
            "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={self._profile}",
        ]  # fmt: skip
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command,
            preexec_fn=pipes,
            close_fds=False,
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            env={**os.environ, "TMPDIR": str(self._profile)},
        )
        os.close(message)
        os.close(say)
        self._tell, self._hear, self._rest = tell, os.fdopen(heard, "rb", buffering=0), b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Network.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._tell)
        self._hear.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol; its answer."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._tell, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._next()
            if heard.get("id") == self._last:
                assert "error" not in heard, heard
                return heard["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = self._hear.read(65536)
            assert piece, "Chromium has ended"
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        heard: dict[str, Any] = json.loads(text)
        if heard.get("method") == "Network.requestWillBeSent":
            self.asked.append(heard["params"]["request"]["url"])
        elif heard.get("method") == "Network.responseReceived":
            self.answered.append(heard["params"]["response"]["url"])
        return heard

    def open(self, address: str) -> None:
        """Go to an address and wait until it has loaded."""
        self.call("Page.navigate", url=address)
        self.wait(lambda: self.run("document.readyState") == "complete" and self.run("location.href") != "about:blank")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key."""
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        for kind in ("keyDown", "keyUp"):
            shown = text if kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **shown)

    def picture(self, path: Path) -> None:
        """Save what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def wait(self, holds: Callable[[], bool]) -> None:
        """Until something holds."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < end, "it did not come"
            time.sleep(0.05)
