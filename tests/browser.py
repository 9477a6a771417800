"""A headless Chromium, steered over its DevTools protocol, for tests of pages that draw."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--remote-debugging-port=0",
)  # fmt: skip


class Tab:
    """A page: what it evaluates, what it complains of."""

    def __init__(self, connection, session: str) -> None:
        self._connection, self._session, self._number = connection, session, 0
        self.errors: list[str] = []

    def call(self, method: str, **parameters):
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, "sessionId": self._session}
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=20))
            self._note(answer)
            if answer.get("id") == self._number and answer.get("sessionId") == self._session:
                assert "error" not in answer, answer
                return answer["result"]

    def _note(self, event) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["params"])[:600])
        if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.errors.append(event["params"]["entry"]["text"])

    def evaluate(self, expression: str):
        """Return a JavaScript expression's value."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 15.0):
        """Return an expression's value as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"still not true: {expression}; errors: {self.errors}"
            time.sleep(0.02)
        return value

    def open(self, address: str, width: int = 1000, height: int = 700) -> None:
        """Go to an address."""
        self.call("Runtime.enable")
        self.call("Log.enable")
        self.call("Page.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Page.navigate", url=address)

    def screenshot(self) -> bytes:
        """Return the page as a PNG file."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


class Browser:
    """A running Chromium."""

    def __init__(self, connection) -> None:
        self._connection, self._number = connection, 0

    def tab(self) -> Tab:
        """Open a page in a profile of its own, as another browser would."""
        context = self._call("Target.createBrowserContext")["browserContextId"]
        target = self._call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Tab(self._connection, session)

    def _call(self, method: str, **parameters):
        self._number -= 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=20))
            if answer.get("id") == self._number:
                return answer["result"]


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Run a headless Chromium while the block lasts."""
    from websockets.sync.client import connect

    log = profile / "log"
    profile.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        port_file, deadline = profile / "DevToolsActivePort", time.monotonic() + 30
        while not port_file.exists() or len(port_file.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        port, path = port_file.read_text().splitlines()[:2]
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as connection:
            yield Browser(connection)
    finally:
        process.kill()
        process.wait()
