"""A round does not wait for its slowest site: around a deployment's grid, late replies are given up.

A silent site would cost every round the whole deadline. Here a round ends when enough sites have answered and the
others take many times as long as the median one; and the deadline itself follows from the rounds that were measured.
"""

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from flwr.app import ConfigRecord, Message

from federation.flower_internals.secure_sum import RECORD_KEY_CONFIGS, Key, Stage

POLL_SECONDS = 0.5  # less is load: a site asks every three seconds
SLOW, GRACE_SECONDS = 5.0, 60.0  # over the median answer's seconds; but so many seconds at least
LONG, SHORTEST_DEADLINE = 20.0, 600.0  # over the median round's seconds; but so many seconds at least


class PatientGrid:
    """A grid that waits for enough replies, and for others as long as their sites are not far slower.

    Parameters
    ----------
    grid : Grid
        Flower's.
    fewest : callable
        Returns the good replies without which it waits for the whole deadline, of so many sites that were asked first:
        the later stages of a secure sum ask fewer, and need as many.
    """

    def __init__(self, grid: Any, fewest: Callable[[int], int]):
        self.grid, self.fewest, self.n_asked = grid, fewest, 0
        self.rounds: dict[str, list[float]] = {}  # seconds, by what was asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self.grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages; return the replies that came in time."""
        sent = list(messages)
        if not sent:
            return []
        measured, stage = self.rounds.setdefault(_asked(sent[0]), []), _stage(sent[0])
        if stage in ("", Stage.SETUP):
            self.n_asked = len(sent)
        began, waiting = time.monotonic(), set(self.grid.push_messages(sent))
        replies: list[Message] = []
        seconds: list[float] = []
        while waiting:
            for reply in self.grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
                if not reply.has_error():
                    seconds.append(time.monotonic() - began)
            if not waiting or time.monotonic() - began > self._longest(seconds, measured, timeout):
                break
            time.sleep(POLL_SECONDS)
        measured.append(time.monotonic() - began)
        return replies

    def _longest(self, seconds: list[float], measured: list[float], timeout: float | None) -> float:
        """Return how long to wait, after answers that took so many seconds, and such rounds before."""
        longest = float("inf") if timeout is None else timeout
        if measured:
            longest = min(longest, max(SHORTEST_DEADLINE, LONG * median(measured)))
        if len(seconds) >= self.fewest(self.n_asked):
            longest = min(longest, max(GRACE_SECONDS, SLOW * median(seconds)))
        return longest


def _asked(message: Message) -> str:
    """Name what a message asks for: of a secure sum's four stages, one trains, and takes far longer than the others."""
    return f"{message.metadata.message_type} {_stage(message)!r}"


def _stage(message: Message) -> str:
    return str(message.content.config_records.get(RECORD_KEY_CONFIGS, ConfigRecord()).get(Key.STAGE, ""))
