"""Debian's Chromium, headless, driven through the pipe of its own protocol (CDP): no driver, no network."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

CHROMIUM: Final = shutil.which("chromium")
_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    # whatever asks for the network is refused, and seen
    "--proxy-server=127.0.0.1:9",
    "--remote-debugging-pipe",
)


class Browser:
    """A browser with one page open at a time."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def as_3_and_4() -> None:
            one, other = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(one, 3)
            os.dup2(other, 4)

        self._process = subprocess.Popen(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=as_3_and_4,  # noqa: PLW1509 - it takes no lock, and pass_fds renumbers nothing
            close_fds=False,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._number = 0
        self._buffer = b""
        self._session: str | None = None
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._in)
        os.close(self._out)

    def open(self, page: Path, *, width: int = 1400, dark: bool = False, script: bool = True) -> None:
        """Open a page in a new tab, and wait until it is loaded and has drawn its figures."""
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.events.clear()
        self.resize(width)
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=page.as_uri())
        done = "document.readyState == 'complete'"
        if script:
            done += " && (document.documentElement.dataset.drawn ?? !document.querySelector('[data-figure]'))"
        self.wait(done)

    def resize(self, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Wait until the page's `condition` holds."""
        end = time.monotonic() + seconds
        while not self.value(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never: {condition}; {self.complaints()}"
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """Give the value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """Click on what a selector finds."""
        self.value(f"document.querySelector({selector!r}).click()")

    def hover(self, x: float, y: float) -> None:
        """Move the mouse to a point of what is seen."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - 3, y=y)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def shot(self, path: Path, *, whole: bool = True) -> Path:
        """Take a picture of the page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def printed(self, path: Path) -> Path:
        """Print the page to a PDF."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"]))
        return path

    def complaints(self) -> list[str]:
        """Give what the browser complained of: errors, warnings, violations of the policy."""
        found = []
        for name, event in self.events:
            if name == "Runtime.exceptionThrown":
                found.append(json.dumps(event["exceptionDetails"]))
            elif name == "Log.entryAdded":
                found.append(event["entry"]["text"])
            elif name == "Runtime.consoleAPICalled":
                found.append(" ".join(str(one.get("value", one)) for one in event["args"]))
        return found

    def requested(self) -> list[str]:
        """Give the addresses that the page asked for, beside itself."""
        asked = [event["request"]["url"] for name, event in self.events if name == "Network.requestWillBeSent"]
        return asked[1:]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol, and give what it answers."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._out, content) :]
        while True:
            got = self._received()
            if got.get("id") == self._number:
                assert "error" not in got, got
                result: dict[str, Any] = got["result"]
                return result
            if "method" in got:
                self.events.append((got["method"], got["params"]))

    def _received(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], 60)[0], "the browser says nothing"
            content = os.read(self._in, 1 << 20)
            assert content, "the browser is gone"
            self._buffer += content
        message, _, self._buffer = self._buffer.partition(b"\0")
        got: dict[str, Any] = json.loads(message)
        return got
