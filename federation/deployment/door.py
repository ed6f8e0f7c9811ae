"""The door for sites: nothing of a request is read before its headers are signed with a registered key.

Flower reads a request's whole body before it asks whose it is, and takes from a registered site any message, also
instructions to other sites. Here a request is let in when its signature is a registered site's and new, when its body
is no longer than its kind needs, and when a message in it answers one that the server has sent to that very site.
"""

import asyncio
import datetime
import time
from base64 import b64decode
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from uvicorn.protocols.http.h11_impl import H11Protocol

from federation.flower_internals.common import (
    SUPERLINK_NODE_ID,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_TOLERANCE,
    bytes_to_public_key,
    verify_signature,
)
from federation.flower_internals.server import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    PushMessagesRequest,
)

SHORT_BYTES = 64 * 2**10  # of a body
BODY_SECONDS = 120.0  # for a body to come whole
STRANGER_SECONDS = 20.0  # that a connection lasts on which no registered key has signed anything
STRANGERS, STRANGERS_OF_ADDRESS = 512, 32  # such connections at once
KINDS = (
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run", "get-fab",
    "pull-object", "push-object", "confirm-message-received",
)  # fmt: skip
REPLIES = "/v1/fleet/push-messages"
LONG_BYTES = {"/v1/fleet/push-object": 64 * 2**20, REPLIES: 2**20}  # layers, and the list of them
PATHS = {f"/v1/fleet/{kind}" for kind in KINDS}

Receive = Callable[[], Any]


class Refused(Exception):
    """A request that is answered with an HTTP status and nothing else."""

    def __init__(self, status: int):
        self.status = status


class Door:
    """An ASGI app around Flower's, and the rules of its connections.

    Parameters
    ----------
    app : ASGI app
        Flower's.
    answers : callable
        Tells whether a message with this identity was sent to this node, and may still be answered.
    """

    def __init__(self, app: Callable[..., Any], answers: Callable[[str, int], bool]):
        self.app, self.answers = app, answers
        self.nodes: Mapping[bytes, int] = {}  # of registered keys
        self.heard: dict[int, float] = {}  # when a node last asked
        self.n_bytes: dict[int, int] = {}  # taken from a node
        self.known: set[tuple[str, int]] = set()  # other ends of connections on which a registered key has signed
        self.strangers: dict[tuple[str, int], Connection] = {}  # other connections, the oldest first

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Any) -> None:
        """Answer one request: let it in, or refuse it by its headers."""
        if scope["type"] != "http":
            return
        try:
            handed = receive if scope["path"] == "/health" else await self._let_in(scope, receive)
        except Refused as refused:
            # Closed, or the rest of the body would be read
            await send(
                {"type": "http.response.start", "status": refused.status, "headers": [(b"connection", b"close")]}
            )
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, handed, _soft(send))

    async def _let_in(self, scope: MutableMapping[str, Any], receive: Receive) -> Receive:
        path, headers = scope["path"], {name.decode("latin-1"): value for name, value in scope["headers"]}
        if path not in PATHS or scope["method"] != "POST":
            raise Refused(404)
        node = self._signed_by(headers)
        longest = LONG_BYTES.get(path, SHORT_BYTES)
        try:
            if int(headers.get("content-length", b"-1")) > longest:
                raise Refused(413)
        except ValueError:
            raise Refused(400) from None
        self.heard[node] = time.time()
        self.strangers.pop(scope["client"], None)
        self.known.add(scope["client"])
        body = await _whole(receive, longest)
        self.n_bytes[node] = self.n_bytes.get(node, 0) + len(body)
        if path == REPLIES:
            await asyncio.to_thread(self._check_replies, body, node)
        return _again(body, receive)

    def _signed_by(self, headers: Mapping[str, bytes]) -> int:
        """Return the node whose registered key has signed these headers."""
        try:
            key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER.lower()], validate=True)
            if key not in self.nodes:
                raise ValueError("not registered")
            signed_at = headers[TIMESTAMP_HEADER.lower()]
            signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER.lower()], validate=True)
            at = datetime.datetime.fromisoformat(signed_at.decode("ascii"))
            age = (datetime.datetime.now(datetime.UTC) - at).total_seconds()
            if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
                raise ValueError("signed at another time")
            if not verify_signature(bytes_to_public_key(key), signed_at, signature):
                raise ValueError("not its signature")
        except (KeyError, ValueError, TypeError) as error:
            raise Refused(401) from error
        return self.nodes[key]

    def _check_replies(self, body: bytes, node: int) -> None:
        """Refuse whatever is not a reply to what the server has sent to this node."""
        try:
            request = PushMessagesRequest.FromString(body)
        except DecodeError as error:
            raise Refused(400) from error
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise Refused(400)
        about = request.messages_list[0].metadata
        if (about.src_node_id, about.dst_node_id) != (node, SUPERLINK_NODE_ID):
            raise Refused(403)
        if not about.reply_to_message_id or not self.answers(about.reply_to_message_id, node):
            raise Refused(403)

    def enters(self, connection: "Connection") -> None:
        """Take a new connection for a stranger's; the oldest of too many strangers' ends, so that a site gets in."""
        of_address = [client for client in self.strangers if client[0] == connection.client[0]]
        if len(of_address) >= STRANGERS_OF_ADDRESS:
            self.strangers.pop(of_address[0]).transport.abort()
        elif len(self.strangers) >= STRANGERS:
            self.strangers.pop(next(iter(self.strangers))).transport.abort()
        self.strangers[connection.client] = connection

    def leaves(self, connection: "Connection") -> None:
        """Forget a connection that has ended."""
        self.known.discard(connection.client)
        if self.strangers.get(connection.client) is connection:
            del self.strangers[connection.client]


class Connection(H11Protocol):
    """A connection to a door: a stranger's is short, and few of them are kept at once."""

    door: Door
    client: tuple[str, int]

    def connection_made(self, transport: Any) -> None:
        """Begin as a stranger's."""
        super().connection_made(transport)
        if self.client is None:  # it has gone already
            transport.abort()
            return
        self.door.enters(self)
        self.loop.call_later(STRANGER_SECONDS, self._end_stranger)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.door.leaves(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """End soon where this was the last answer: TLS would go on to take a body that nobody wants."""
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_later(1.0, self.transport.abort)

    def _end_stranger(self) -> None:
        if self.door.strangers.get(self.client) is self:
            self.transport.abort()


def connections_of(door: Door) -> type[Connection]:
    """Make the protocol of a door's connections, as uvicorn wants it: a class."""
    return type("ConnectionOfDoor", (Connection,), {"door": door})


async def _whole(receive: Receive, longest: int) -> bytes:
    """Receive a body, if it is not too long and comes in time."""
    parts, size, more = [], 0, True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise Refused(400)
                parts.append(event.get("body", b""))
                size, more = size + len(parts[-1]), event.get("more_body", False)
                if size > longest:
                    raise Refused(413)
    except TimeoutError as error:
        raise Refused(408) from error
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Hand a body on that was received here."""
    told = False

    async def handed() -> Any:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return handed


def _soft(send: Any) -> Any:
    """Turn "internal error" into "come again": after the one a SuperNode ends, after the other it asks again."""

    async def softly(event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start" and event["status"] == 500:
            event = {**event, "status": 503}
        await send(event)

    return softly
