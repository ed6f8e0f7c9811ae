"""Flower's grid on one machine: each message goes to one of a few processes, which serve all simulated sites.

Flower's own simulation engine hands messages to Ray. That costs some ten seconds a run and half a gigabyte a process,
which is more than most federations take to train; `mfscsn speed` measures both. The apps, the strategies and the
messages are Flower's here too, and a test shows that both give the same layers, bit for bit.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from federation.flower_internals.common import SUPERLINK_NODE_ID, ErrorCode, Run, TaskIdentity
from federation.workers import n_at_once, start_workers, stop_workers

RUN_ID = 1


class LocalGrid(Grid):
    """A grid whose nodes 1, 2, ... are the sites of a run, in their order; use it in a ``with`` block.

    Parameters
    ----------
    n_sites : int
    run_config : mapping
        What Flower would give the apps as a run's configuration.
    threads : int
        That a site trains with; as many sites train at once as there are cores for.
    log : Path
        Where what the processes print is added.
    watch : callable
        Called before messages are sent: whatever came before is then done.
    """

    def __init__(
        self,
        n_sites: int,
        run_config: Mapping[str, Any],
        threads: int,
        log: Path,
        watch: Callable[[], None] = lambda: None,
    ):
        self.threads, self.log, self.watch = threads, log, watch
        self.contexts = {
            SUPERLINK_NODE_ID + 1 + site: Context(
                run_id=RUN_ID,
                node_id=SUPERLINK_NODE_ID + 1 + site,
                node_config={"partition-id": site, "num-partitions": n_sites},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for site in range(n_sites)
        }
        self.numbers = itertools.count(1)
        self.pool: ProcessPoolExecutor | None = None
        self.sent: dict[str, tuple[Message, Future[tuple[Message, Context]]]] = {}

    def __enter__(self) -> Self:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = RUN_ID, RUN_ID, SUPERLINK_NODE_ID
        self._workers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def set_run(self, run: Run) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Run:
        """Describe the run as Flower does."""
        return Run.create_empty(RUN_ID)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """List the nodes: all of them are always there."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand messages to the processes, and give each a number."""
        numbers = []
        for message in messages:
            number = str(next(self.numbers))
            message.metadata.__dict__["_message_id"] = number  # as Flower's own grids do
            task = self._workers().submit(_answer, message, self.contexts[message.metadata.dst_node_id])
            self.sent[number] = message, task
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have come; a process that died is an error reply."""
        replies = []
        for number in message_ids:
            message, task = self.sent[number]
            if not task.done():
                continue
            del self.sent[number]
            try:
                reply, self.contexts[message.metadata.dst_node_id] = task.result()
            except BrokenProcessPool:
                self._end()
                reason = "the site's process was killed; is there memory enough?"
                reply = Message(Error(ErrorCode.UNKNOWN, reason), reply_to=message)
            replies.append(reply)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages, and wait for all replies or for `timeout` seconds."""
        self.watch()
        numbers = self.push_messages(messages)
        wait([self.sent[number][1] for number in numbers], timeout)
        replies = self.pull_messages(numbers)
        if any(number in self.sent for number in numbers):  # too late: nobody waits for them
            self.sent.clear()
            self._end()
        return replies

    def _workers(self) -> ProcessPoolExecutor:
        if self.pool is None:
            self.pool = start_workers(n_at_once(self.threads, len(self.contexts)), self.threads, self.log)
        return self.pool

    def _end(self) -> None:
        if self.pool is not None:
            stop_workers(self.pool)
        self.pool = None


def _answer(message: Message, context: Context) -> tuple[Message, Context]:
    """Have the client app answer a message, in a process of the pool."""
    from federation import client_app

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = RUN_ID, RUN_ID, context.node_id
    return client_app.app(message, context), context
