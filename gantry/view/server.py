"""The viewer's web server: one page, and one WebSocket to it, for whoever has the address with its secret token.

It listens on this machine alone unless told otherwise. It serves no files but its page, takes commands that
`gantry.view.messages` knows and nothing else, and drops whoever breaks the protocol. Requests must name this machine
(`Host`), so that no name of another's that has been pointed at it gets in, and a WebSocket must come from the page
itself (`Origin`).
"""

import asyncio
import contextlib
import ipaddress
import queue
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from types import TracebackType

from gantry.errors import GantryError
from gantry.view import websocket
from gantry.view.messages import LONGEST_COMMAND, Command, Hello, pack, parse

LOOPBACK = "127.0.0.1"
LONGEST_REQUEST = 8192
"""Bytes of a request's head, at most."""
REQUEST_SECONDS = 10.0
"""Time that a client has for its request."""
STALLED_SECONDS = 30.0
"""Time after which a page that takes nothing is dropped."""
MOST_CONNECTIONS, MOST_PAGES = 64, 8
"""Connections, and pages among them, that are served at once."""
MOST_COMMANDS = 256
"""Commands that wait for the simulation; more are dropped."""
BUFFER = 1 << 18
"""Bytes on their way to a page, beyond which it is given the latest alone."""
RETURN_SECONDS = 5.0
"""Time for which the controls wait for a page that went away, such as one that is being loaded again."""

_SECURITY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REASONS = {
    101: "Switching Protocols",
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    method: str
    path: str
    headers: dict[str, str]
    """By name, in lower case."""


class Refused(Exception):
    """A request that is not answered, with the status that says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def read_request(head: bytes) -> Request:
    """Return the request whose head these bytes are.

    Raises:
        Refused: it is malformed, or names a header twice.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise Refused(400)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) or name.lower() in headers:
            raise Refused(400)
        headers[name.lower()] = value.strip()
    return Request(words[0], words[1], headers)


def is_loopback(host: str) -> bool:
    """Return whether an address or name stands for this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_this_machine(host: str, network: bool) -> bool:
    """Return whether a request's `Host` is one under which this server may be asked.

    Names that anybody can point anywhere are not: with one of them, another's page in the user's browser would count
    as ours (DNS rebinding). Addresses are safe, since nobody can redirect them.

    Args:
        host: the header, with or without a port.
        network: whether the server is to be reached from other machines.
    """
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::\d{1,5})?", host, re.ASCII)
    if match is None:
        return False
    name = match[1].strip("[]").lower()
    if is_loopback(name):
        return True
    if not network:
        return False
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return name in {socket.gethostname().lower(), socket.getfqdn().lower()}


def check(request: Request, token: str, network: bool) -> bool:
    """Return whether a request asks for the WebSocket rather than the page.

    Raises:
        Refused: it may have neither.
    """
    if not names_this_machine(request.headers.get("host", ""), network):
        raise Refused(403)
    start, _, rest = request.path.removeprefix("/").partition("/")
    if not secrets.compare_digest(start.encode("latin-1"), token.encode()) or rest not in ("", "live"):
        raise Refused(404)
    if request.method != "GET":
        raise Refused(405)
    if rest == "":
        return False
    headers = request.headers
    if headers.get("origin") != f"http://{headers['host']}":
        raise Refused(403)
    upgrade = headers.get("upgrade", "").lower() == "websocket" and headers.get("sec-websocket-version") == "13"
    if not upgrade or not re.fullmatch(r"[A-Za-z0-9+/]{22}==", headers.get("sec-websocket-key", "")):
        raise Refused(400)
    return True


class Page:
    """A page that is connected, and the messages that wait for it: the latest of each kind."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.waiting: dict[str, bytes] = {}
        self.changed = asyncio.Event()

    def put(self, kind: str, message: bytes) -> None:
        """Let a message wait in place of an older one of its kind."""
        self.waiting.pop(kind, None)
        self.waiting[kind] = message
        self.changed.set()

    async def send_all(self) -> None:
        """Send what waits, in order, as fast as the page takes it."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            while self.waiting:
                kind = next(iter(self.waiting))
                self.writer.write(websocket.frame(self.waiting.pop(kind)))
                await asyncio.wait_for(self.writer.drain(), STALLED_SECONDS)


class Helm:
    """Who steers: one page at a time, the first that comes. Others watch until it has gone.

    A page that went away, as it does when it is loaded again, has RETURN_SECONDS to come back with the same key; then
    the one that has waited longest steers.
    """

    def __init__(self) -> None:
        self.holder: Page | None = None
        self._key: str | None = None
        self._free_since = float("-inf")
        self._waiting: dict[Page, str] = {}

    def join(self, page: Page, key: str, now: float) -> None:
        """Let a page wait for the helm, which it gets at once where nobody has it."""
        if page is not self.holder:
            self._waiting.setdefault(page, key)
            self.settle(now)

    def leave(self, page: Page, now: float) -> None:
        """Forget a page that has gone."""
        self._waiting.pop(page, None)
        if page is self.holder:
            self.holder, self._free_since = None, now
            self.settle(now)

    def settle(self, now: float) -> bool:
        """Give the helm to whoever it is due; return whether somebody new has it."""
        if self.holder is not None or not self._waiting:
            return False
        back = [page for page, key in self._waiting.items() if key == self._key]
        if not back and self._key is not None and now - self._free_since < RETURN_SECONDS:
            return False
        self.holder = back[0] if back else next(iter(self._waiting))
        self._key = self._waiting.pop(self.holder)
        return True


class Server:
    """Serves the page while the `with` block lasts, from a thread of its own.

    Args:
        host: the address to listen on; anything but this machine's own needs `allow_network`.
        port: 0 for a free one.
        allow_network: whether other machines may connect.

    Raises:
        GantryError: such an address may not, or cannot, be listened on.
    """

    def __init__(self, host: str = LOOPBACK, port: int = 0, allow_network: bool = False) -> None:
        if not is_loopback(host) and not allow_network:
            raise GantryError(
                f"--host {host} would let everyone who reaches this machine and has the address steer, and everyone on "
                "the way read it, as nothing is encrypted: add --allow-network if you mean it, or leave --host out and "
                "use `ssh -L`"
            )
        self._host, self._port, self._network = host, port, not is_loopback(host)
        self._token = secrets.token_urlsafe(24)
        self._content = resources.files("gantry.view").joinpath("page.html").read_text("utf-8")
        self._commands: queue.Queue[Command] = queue.Queue(MOST_COMMANDS)
        self._latest: dict[str, bytes] = {}
        self._pages: set[Page] = set()
        self._drawing: set[Page] = set()
        self._connections = 0
        self._helm = Helm()
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="gantry view", daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            said = self._failure.strerror or self._failure
            raise GantryError(f"cannot listen on {self._host}, port {self._port}: {said}; choose another --port")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(2.0)

    @property
    def address(self) -> str:
        """What a browser opens: whoever knows it may watch, and steer if nobody does."""
        host = self._host
        if self._network and host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/{self._token}/"

    @property
    def pages(self) -> int:
        """How many pages are connected and have drawn their first picture, which they say by their `Hello`."""
        return len(self._drawing)

    def commands(self) -> Iterator[Command]:
        """Yield the commands that have come, oldest first, from the page that steers."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._commands.get_nowait()

    def publish(self, kind: str, message: bytes) -> None:
        """Send a message to all pages, and to those that come later unless a newer one of its kind has been sent."""
        with contextlib.suppress(RuntimeError):  # the thread has ended
            self._loop.call_soon_threadsafe(self._publish, kind, message)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await asyncio.start_server(self._connected, self._host, self._port, limit=LONGEST_REQUEST)
        except OSError as error:
            self._failure = error
            self._ready.set()
            return
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()

    def _publish(self, kind: str, message: bytes) -> None:
        self._latest.pop(kind, None)
        self._latest[kind] = message
        for page in self._pages:
            page.put(kind, message)
        if self._helm.settle(time.monotonic()):
            self._tell_roles()

    def _tell_roles(self) -> None:
        for page in self._pages:
            page.put("role", pack("role", {"steers": page is self._helm.holder, "pages": len(self._pages)}))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a connection; whatever is wrong with it ends it alone."""
        self._connections += 1
        try:
            await self._answer(reader, writer)
        except Refused as refused:
            with contextlib.suppress(OSError):
                writer.write(_response(refused.status, {"Content-Type": "text/plain"}, _REASONS[refused.status]))
                await asyncio.wait_for(writer.drain(), REQUEST_SECONDS)
        except (OSError, TimeoutError, websocket.Closed, asyncio.CancelledError):
            pass  # gone, too slow, against the protocol, or the server ends
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections > MOST_CONNECTIONS:
            raise Refused(503)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_SECONDS)
        except asyncio.LimitOverrunError:
            raise Refused(400) from None
        except asyncio.IncompleteReadError:
            return
        request = read_request(head)
        if not check(request, self._token, self._network):
            nonce = secrets.token_urlsafe(16)
            headers = {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Security-Policy": _SECURITY.format(nonce=nonce),
                "Cross-Origin-Opener-Policy": "same-origin",
            }
            writer.write(_response(200, headers, self._content.replace("NONCE", nonce)))
            await asyncio.wait_for(writer.drain(), STALLED_SECONDS)
            return
        if len(self._pages) >= MOST_PAGES:
            raise Refused(503)
        accept = websocket.accept_key(request.headers["sec-websocket-key"])
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
        writer.write(_head(101, headers))
        await self._talk(reader, writer)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send a page what is published, and take its commands while it steers."""
        writer.transport.set_write_buffer_limits(BUFFER)
        page = Page(writer)
        self._pages.add(page)
        for kind, message in self._latest.items():
            page.put(kind, message)
        self._tell_roles()
        sending = asyncio.create_task(page.send_all())
        sending.add_done_callback(lambda task: _close_after_failure(task, writer))
        try:
            while True:
                what, content = await websocket.read_message(reader, LONGEST_COMMAND)
                if what == websocket.PING:
                    writer.write(websocket.frame(content, websocket.PONG))
                    await asyncio.wait_for(writer.drain(), STALLED_SECONDS)
                elif what == websocket.TEXT:
                    self._take(page, content)
        except websocket.Closed as closed:
            with contextlib.suppress(OSError):
                writer.write(websocket.frame(closed.code.to_bytes(2, "big"), websocket.CLOSE))
            raise
        finally:
            sending.cancel()
            self._pages.discard(page)
            self._drawing.discard(page)
            self._helm.leave(page, time.monotonic())
            self._tell_roles()

    def _take(self, page: Page, content: bytes) -> None:
        """Hand a command on, if it is one and the page steers."""
        try:
            command = parse(content)
        except GantryError:
            raise websocket.Closed(websocket.POLICY) from None
        if isinstance(command, Hello):
            self._drawing.add(page)
            self._helm.join(page, command.key, time.monotonic())
            self._tell_roles()
        elif page is self._helm.holder:
            with contextlib.suppress(queue.Full):
                self._commands.put_nowait(command)


def _close_after_failure(sending: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
    """End a page's connection when nothing can be sent any more, whatever it still says."""
    if not sending.cancelled() and sending.exception() is not None:
        writer.close()


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _response(status: int, headers: dict[str, str], content: str) -> bytes:
    """Return a whole response, after which the connection is closed."""
    body = content.encode()
    usual = {
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return _head(status, {**headers, **usual}) + body
