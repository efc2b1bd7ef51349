"""A headless Chromium for tests, driven over its DevTools pipe with the standard library alone.

    with Chromium(width=1400) as browser:
        browser.open(path)
        browser.wait("document.documentElement.dataset.ready === 'yes'")
        assert not browser.faults and not browser.foreign_requests

As a command it takes pictures:

    python tests/study/browser.py report.html figure.png --select "#fig-learnability" --scale 2 --margin 20
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["Chromium", "find_chromium"]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
INSIDE = ("data:", "blob:", "about:")


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Chromium:
    """One tab of a browser of its own, which nothing else shares and which keeps nothing.

    `faults`: console errors and warnings, uncaught exceptions. `foreign_requests`: every address that was
    asked for and is not the open file.
    """

    def __init__(self, *, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        executable = find_chromium()
        assert executable is not None, "no chromium on the path"
        self.faults: list[str] = []
        self.foreign_requests: list[str] = []
        self._home = ""
        self._number, self._buffer = 0, b""
        self._replies: dict[int, dict[str, Any]] = {}
        self._profile = tempfile.mkdtemp(prefix="flowlab-chromium-")
        self._process, self._send, self._receive = _launch(executable, self._profile)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        theme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("Browser.close")
            self._process.wait(timeout=20)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._send)
            os.close(self._receive)
            shutil.rmtree(self._profile, ignore_errors=True)

    # ---- what a reader does ----

    def open(self, path: Path | str) -> None:
        """Open a file from disk."""
        self._home = Path(path).resolve().as_uri()
        self.call("Page.navigate", url=self._home)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression; a promise is awaited."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, f"{script}: {reply['exceptionDetails']}"
        return reply["result"].get("value")

    def wait(self, script: str, seconds: float = 60.0) -> None:
        """Wait until a JavaScript expression is true."""
        limit = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < limit, f"false for {seconds:g} s: {script}; faults: {self.faults}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Scroll to the middle of the first match and press the left button there."""
        box = self._box(selector, "e.scrollIntoView({block: 'center', behavior: 'instant'});")
        spot = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **spot)

    def type(self, selector: str, text: str) -> None:
        """Focus a field and type into it."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int, scale: float = 1.0) -> None:
        """Set the window's inner size in CSS pixels; `scale` is device pixels per CSS pixel."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def picture(self, path: Path | str, selector: str = "body", margin: float = 0.0) -> None:
        """Write a PNG of the first match, whole even where it is longer than the window; margin in pixels."""
        self.run("scrollTo(0, 0)")
        box = self._box(selector)
        clip = {"x": box["x"] - margin, "y": box["y"] - margin, "scale": 1}
        clip |= {"width": box["width"] + 2 * margin, "height": box["height"] + 2 * margin}
        image = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(image["data"]))

    def _box(self, selector: str, before: str = "") -> dict[str, float]:
        script = f"(e => {{ {before} return e.getBoundingClientRect().toJSON(); }})"
        return self.run(f"{script}(document.querySelector({json.dumps(selector)}))")

    # ---- the pipe: JSON messages with a zero byte after each ----

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command to the tab."""
        return self._call(method, self._session, **params)

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while self._number not in self._replies:
            self._read()
        reply = self._replies.pop(self._number)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return reply["result"]

    def _read(self, seconds: float = 60.0) -> None:
        ready, _, _ = select.select([self._receive], [], [], seconds)
        assert ready, f"chromium said nothing for {seconds:g} s"
        block = os.read(self._receive, 1 << 20)
        assert block, "chromium ended"
        *whole, self._buffer = (self._buffer + block).split(b"\0")
        for message in map(json.loads, whole):
            if "id" in message:
                self._replies[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.faults.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            words = [argument.get("value", argument.get("description")) for argument in params["args"]]
            self.faults.append(f"console.{params['type']}: {words}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.faults.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(INSIDE) and url.split("#")[0] != self._home:
                self.foreign_requests.append(url)


def _launch(executable: str, profile: str) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start the browser; it reads commands on descriptor 3 and writes replies on descriptor 4."""
    (commands, send), (receive, replies) = os.pipe(), os.pipe()
    theirs = [
        fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (commands, replies)
    ]  # out of 3 and 4

    def place() -> None:
        for descriptor, number in zip(theirs, (3, 4), strict=True):
            os.dup2(descriptor, number)

    process = subprocess.Popen(
        [executable, *FLAGS, f"--user-data-dir={profile}"],
        preexec_fn=place,
        pass_fds=(3, 4),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for descriptor in (commands, replies, *theirs):
        os.close(descriptor)
    return process, send, receive


# ---- pictures from the command line ------------------------------------------------------------------------


def _main() -> None:
    parser = argparse.ArgumentParser(description="Take a picture of a page in headless Chromium.")
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--select", default="body", help="CSS selector of what to photograph")
    parser.add_argument("--width", type=int, default=1400, help="window width in CSS pixels")
    parser.add_argument("--scale", type=float, default=1.0, help="device pixels per CSS pixel")
    parser.add_argument("--margin", type=float, default=0.0, help="free space around it in CSS pixels")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    with Chromium(width=options.width, dark=options.dark) as browser:
        browser.resize(options.width, 900, options.scale)
        browser.open(options.page)
        browser.wait("document.documentElement.dataset.ready === 'yes'")
        browser.picture(options.picture, options.select, options.margin)
        print(options.picture, *browser.faults, *browser.foreign_requests, sep="\n")


if __name__ == "__main__":
    _main()
