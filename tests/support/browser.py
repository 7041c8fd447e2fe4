"""A headless Chromium, driven by its DevTools protocol over two pipes: no other package is needed for that."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60.0
"""Seconds that anything is waited for."""
_KEYS = {
    "Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
    "Space": {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": " "},
}


class Browser:
    """One page of a browser, and what was said and asked for on it."""

    def __init__(self, process: "subprocess.Popen[bytes]", to_browser: int, from_browser: int) -> None:
        self._process, self._to, self._from = process, to_browser, from_browser
        self._unread, self._number, self._session = b"", 0, ""
        self.said: list[str] = []
        """Console messages, uncaught errors and entries of the browser's log."""
        self.requested: list[str] = []
        """Addresses that the page has asked for."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self._ask(f"{domain}.enable")

    def go(self, address: str) -> None:
        """Open an address, and wait until it is loaded."""
        self._ask("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def resize(self, width: int, height: int) -> None:
        """Give the page a size, as of a phone where it is narrow."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def value(self, script: str) -> Any:
        """What a script gives on the page, promises awaited."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until a script gives something true."""
        until = time.monotonic() + PATIENCE
        while not self.value(script):
            assert time.monotonic() < until, f"{script}; on the page: {self.value('document.body.innerText')}"
            time.sleep(0.05)

    def choose_file(self, selector: str, file: Path) -> None:
        """Give a file to a file input."""
        root = self._ask("DOM.getDocument")["root"]["nodeId"]
        node = self._ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._ask("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def press(self, key: str) -> None:
        """Press one of Tab, Enter and Space."""
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, **_KEYS[key])

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self._ask("Input.insertText", text=text)

    def tab_to(self, selector: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(60):
            self.press("Tab")
            if self.value(f"document.activeElement?.matches({json.dumps(selector)})"):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    def screenshot(self) -> bytes:
        """The whole page, as PNG."""
        picture = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(picture["data"])

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            part = os.read(self._from, 2**20)
            assert part, f"the browser has ended: {self._process.poll()}"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, event: str, about: dict[str, Any]) -> None:
        notes: dict[str, Callable[[], None]] = {
            "Runtime.consoleAPICalled": lambda: self.said.append(str(about["args"])),
            "Runtime.exceptionThrown": lambda: self.said.append(str(about["exceptionDetails"])),
            "Log.entryAdded": lambda: self.said.append(str(about["entry"])),
            "Network.requestWillBeSent": lambda: self.requested.append(about["request"]["url"]),
        }
        notes.get(event, lambda: None)()


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """Start a browser whose profile lies in a folder."""
    assert CHROMIUM is not None
    to_browser, from_browser = os.pipe(), os.pipe()

    def lay_pipes() -> None:  # in the new process: what it reads is 3, what it writes 4
        read, write = os.dup(to_browser[0]), os.dup(from_browser[1])
        os.dup2(read, 3)
        os.dup2(write, 4)

    options = (
        "--headless",
        "--remote-debugging-pipe",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={folder}",
    )
    with subprocess.Popen(
        [CHROMIUM, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lay_pipes,
        close_fds=False,
        env={**os.environ, "HOME": str(folder)},
    ) as process:
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Browser(process, to_browser[1], from_browser[0])
        finally:
            process.kill()
            os.close(to_browser[1])
            os.close(from_browser[0])
