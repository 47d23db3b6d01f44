"""A headless Chromium to be driven over the DevTools protocol: looks at pages, presses keys, reads timings."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 60.0
POLL_S = 0.01
NAMED_KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip
TEXT_OF_KEYS = {"Enter": "\r", " ": " "}
CONTROL, SHIFT = 2, 8


class Tab:
    """One page of the browser. `log` collects what its console and its exceptions said."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._num_calls = 0
        self.log: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a DevTools method and return its result. Raises RuntimeError with the browser's own words."""
        self._num_calls += 1
        self._connection.send(json.dumps({"id": self._num_calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=CALL_TIMEOUT_S))
            if message.get("id") == self._num_calls:
                break
            if message.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.log.append(json.dumps(message["params"]))
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Return once `expression` is true."""
        deadline = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s} s: {expression}")
            time.sleep(POLL_S)

    def look_as(
        self, width: int, height: int = 900, *, dark: bool = False, calm: bool = False, paper: bool = False
    ) -> None:
        """Set the screen's size in CSS pixels, the colour scheme, reduced motion, and whether it is paper."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"},
        ]
        self.call("Emulation.setEmulatedMedia", media="print" if paper else "screen", features=features)

    def open(self, page: Path | str, *, until: str = "true") -> None:
        """Open a file or a URL, and return once the expression `until` is true in it."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        self.wait_for(f"location.protocol !== 'about:' && document.readyState === 'complete' && ({until})")

    def picture(self, *, whole: bool = False, top: float = 0, height: float | None = None) -> bytes:
        """The screen, the whole page, or `height` pixels of it from `top` on, as PNG."""
        parameters: dict[str, Any] = {"format": "png"}
        if whole or height is not None:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": top, "width": size["width"], "height": height or size["height"], "scale": 1}
            parameters |= {"clip": clip, "captureBeyondViewport": True}
        return base64.b64decode(self.call("Page.captureScreenshot", **parameters)["data"])

    def printed(self) -> bytes:
        """The page on A4 paper, as PDF, without backgrounds, as browsers print by default."""
        parameters = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": False}
        return base64.b64decode(self.call("Page.printToPDF", **parameters)["data"])

    def type(self, text: str) -> None:
        """Enter `text` where the focus is."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False, control: bool = False) -> None:
        """Press and release a key: one of NAMED_KEYS, or a character."""
        text = "" if control else TEXT_OF_KEYS.get(key, key if len(key) == 1 else "")
        event = {"key": key, "code": key, "windowsVirtualKeyCode": NAMED_KEYS.get(key, ord(key[0].upper()))}
        event |= {"modifiers": SHIFT * shift | CONTROL * control}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.call("Input.dispatchKeyEvent", **event, **down)
        self.call("Input.dispatchKeyEvent", **event, type="keyUp")


@contextmanager
def opened_browser() -> Iterator[Tab]:
    """A browser with a profile of its own and no network access, closed on exit."""
    if CHROMIUM is None:
        raise SystemExit("there is no chromium on this machine; install it, for example with `apt install chromium`")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_page_address(process, Path(profile)), max_size=None) as connection:
                yield Tab(connection)
        finally:
            process.terminate()
            process.wait()


def _page_address(process: subprocess.Popen[bytes], profile: Path) -> str:
    """Where the first page listens: the browser writes its port into its profile, then answers there."""
    written = profile / "DevToolsActivePort"
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if written.exists() and (lines := written.read_text().splitlines()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=START_TIMEOUT_S) as reply:
                pages = [target for target in json.load(reply) if target["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        time.sleep(POLL_S)
    raise RuntimeError(f"{process.args!r} gave no page to talk to within {START_TIMEOUT_S} s")
