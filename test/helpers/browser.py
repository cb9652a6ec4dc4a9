"""Debian's chromium without a window, driven over its debugging protocol (websockets come with viser)."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import pathlib
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from patience import PATIENCE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SETTINGS = (
    "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-gpu-sandbox",
    "--no-first-run", "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip


class Browser:
    """One page."""

    def __init__(self, socket: Any):
        self._socket = socket
        self._numbers = itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict:
        """One command of the protocol; events that come meanwhile are not looked at."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(PATIENCE))).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        """What can be read on the page."""
        return self.evaluate("document.body ? document.body.innerText : ''") or ""

    def wait_for(self, expression: str) -> Any:
        """The expression's value, as soon as it is true."""
        deadline = time.monotonic() + PATIENCE
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"never true: {expression}; the page reads: {self.text()[:2000]}"
            time.sleep(0.1)
        return value

    def wait_for_text(self, text: str) -> None:
        """Until the page reads so."""
        self.wait_for(f"document.body && document.body.innerText.includes({json.dumps(text)})")

    def press(self, text: str) -> None:
        """Clicks the innermost visible element with this text."""
        find = (
            "(() => {const found = [...document.querySelectorAll('button, label, [role=tab], span, div')].filter("
            f"e => e.innerText && e.innerText.trim() === {json.dumps(text)} && e.getBoundingClientRect().width);"
            "if (!found.length) return null; const r = found[found.length - 1].getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2];})()"
        )
        self.click(*self.wait_for(find))

    def click(self, x: float, y: float) -> None:
        """The left button at a place of the page, pixels."""
        place = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.call("Input.dispatchMouseEvent", type="mousePressed", **place)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **place)

    def click_until(self, x: float, y: float, text: str) -> None:
        """Clicks until the page reads so: one that is still loading takes no click."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.text():
            assert time.monotonic() < deadline, f"never read: {text}; the page reads: {self.text()[:2000]}"
            self.click(x, y)
            time.sleep(0.5)

    def picture(self, quality: int = 80) -> bytes:
        """The page as JPEG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="jpeg", quality=quality)["data"])


@contextlib.contextmanager
def open_page(url: str, folder: pathlib.Path, size_wh: tuple[int, int] = (1280, 800)) -> Iterator[Browser]:
    """Chromium with one page; `folder` holds its profile."""
    from websockets.sync.client import connect

    command = [CHROMIUM, *SETTINGS, f"--user-data-dir={folder}", f"--window-size={size_wh[0]},{size_wh[1]}", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_page_socket(folder / "DevToolsActivePort", process), max_size=None) as socket:
            browser = Browser(socket)
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=size_wh[0], height=size_wh[1], deviceScaleFactor=1,
                mobile=False,
            )  # fmt: skip
            yield browser
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _page_socket(announced: pathlib.Path, process: subprocess.Popen) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if announced.is_file() and (lines := announced.read_text().split()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json") as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise RuntimeError(f"{CHROMIUM} did not start")
