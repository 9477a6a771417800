"""WebSockets (RFC 6455) as the viewer needs them: short messages in, whole binary messages out."""

import asyncio
import base64
import hashlib

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What the protocol has the server add to the client's key."""
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
"""The kinds of frames that are known here."""
PROTOCOL_ERROR, POLICY, TOO_LONG = 1002, 1008, 1009
"""Codes that say why a connection is closed."""
LONGEST_CONTROL = 125
"""Bytes that a frame of the kinds close, ping and pong may hold."""


class Closed(Exception):
    """The connection is over, or must be closed with `code`."""

    def __init__(self, code: int = 1000) -> None:
        super().__init__(code)
        self.code = code


def accept_key(key: str) -> str:
    """Return what the server answers to the client's `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1(f"{key}{GUID}".encode()).digest()).decode()


def frame(content: bytes, kind: int = BINARY) -> bytes:
    """Return a whole message in one frame, as a server sends it."""
    length = len(content)
    if length < 126:
        head = bytes((0x80 | kind, length))
    elif length < 1 << 16:
        head = bytes((0x80 | kind, 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | kind, 127)) + length.to_bytes(8, "big")
    return head + content


async def read_message(reader: asyncio.StreamReader, longest: int) -> tuple[int, bytes]:
    """Return kind and content of the next message: TEXT, PING or PONG.

    The page's messages fit into one frame each, so whoever sends parts of messages is not the page.

    Raises:
        Closed: the client has closed, breaks the protocol, or sends more than `longest` bytes.
    """
    try:
        first, second = await reader.readexactly(2)
        kind, length = first & 0x0F, second & 0x7F
        if first & 0xF0 != 0x80 or not second & 0x80 or kind not in (TEXT, CLOSE, PING, PONG):
            raise Closed(PROTOCOL_ERROR)
        if kind != TEXT and length > LONGEST_CONTROL:
            raise Closed(PROTOCOL_ERROR)
        if length >= 126:
            length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
        if length > longest:
            raise Closed(TOO_LONG)
        mask = await reader.readexactly(4)
        content = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError):
        raise Closed from None
    if kind == CLOSE:
        raise Closed
    keys = (mask * (length // 4 + 1))[:length]
    return kind, (int.from_bytes(content, "big") ^ int.from_bytes(keys, "big")).to_bytes(length, "big")
