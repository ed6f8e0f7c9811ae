"""Flower's SuperNode as a site runs it, in a process of its own.

Mended: it ends when its loop does, for Flower's process would stay, and ask nothing any more; it shows when it last
asked; and of what the server sends, it takes no more than a message of the contract can have.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import httpx

from federation.flower_internals.supernode import FleetHttpClient, fleet_http_connection, flower_supernode

HEARTBEAT, ASKS = "/v1/fleet/send-node-heartbeat", "/v1/fleet/pull-messages"


class TooLarge(Exception):
    """The server sends more than a message of the contract can have."""


class WatchedClient(FleetHttpClient):
    """Flower's client, whose questions and whose answers' sizes are watched."""

    asked: Path
    most_bytes: int

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.left, self.lock = self.most_bytes, threading.Lock()
        self._client.event_hooks = {"request": [self._asks], "response": [self._check]}

    def _asks(self, request: httpx.Request) -> None:
        if request.url.path != HEARTBEAT:  # it has a thread of its own, and says nothing of the loop
            self.asked.touch()

    def _check(self, response: httpx.Response) -> None:
        """Refuse by its header an answer that is too large; its body has not been read yet."""
        path, said = response.request.url.path, response.headers.get("content-length", "")
        if not said.isdigit() or "content-encoding" in response.headers:
            raise TooLarge(f"the server does not say how long its answer to {path} is")
        with self.lock:
            if path == ASKS:
                self.left = self.most_bytes  # a new message begins
            self.left -= int(said) if path != HEARTBEAT else 0
            if self.left < 0 or int(said) > self.most_bytes:
                raise TooLarge(
                    f"the server sends more than {self.most_bytes} bytes for one message; the contract needs no more"
                )


def run(asked: Path, most_bytes: int, words: list[str]) -> None:
    """Run a SuperNode; the process ends with its loop, whatever else it has started."""
    WatchedClient.asked, WatchedClient.most_bytes = asked, most_bytes
    fleet_http_connection.FleetHttpClient = WatchedClient  # type: ignore[misc, attr-defined]
    sys.argv = ["flower-supernode", *words]
    try:
        flower_supernode()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
