"""A round waits for enough sites, and not for one that is silent."""

import time

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.supercore.task_identity import TaskIdentity

from federation import patience
from federation.patience import PatientGrid


class Slow:
    """A grid whose node k answers after so many seconds; None: never."""

    def __init__(self, seconds, failed=()):
        self.seconds, self.failed = seconds, failed

    def push_messages(self, messages):
        self.began, self.sent = time.monotonic(), {}
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(number)
            self.sent[str(number)] = message
        return list(self.sent)

    def pull_messages(self, numbers):
        replies = []
        for number in sorted(numbers):
            after = self.seconds[int(number)]
            if after is not None and time.monotonic() > self.began + after:
                content = Error(1, "") if int(number) in self.failed else RecordDict()
                replies.append(Message(content, reply_to=self.sent[number]))
        return replies


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in (("POLL_SECONDS", 0.01), ("GRACE_SECONDS", 0.3), ("SHORTEST_DEADLINE", 0.6)):
        monkeypatch.setattr(patience, name, value)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # from which Flower takes a sender


def messages(n, stage=None):
    records = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({Key.STAGE: stage})} if stage else {})
    return [Message(records, dst_node_id=node, message_type="train") for node in range(1, n + 1)]


@pytest.mark.parametrize(
    ("seconds", "failed", "fewest", "come"),
    [
        ([0.0, 0.1, 0.2], (), 2, 3),  # all
        ([0.0, 0.0, None], (), 2, 2),  # one is silent: not for the deadline
        ([0.1, 0.1, 0.4], (), 2, 3),  # one is slow, by less than the multiple
        ([0.0, None, None], (), 2, 1),  # too few: for the deadline
        ([0.0, 0.0, None], (1,), 2, 2),  # a failure is no answer
    ],
)
def test_a_round_ends_when_enough_have_answered_and_the_rest_are_far_slower(seconds, failed, fewest, come):
    grid, began = PatientGrid(Slow(seconds, failed), lambda n_asked: fewest), time.monotonic()
    replies = grid.send_and_receive(messages(len(seconds)), timeout=3.0)
    assert len(replies) == come
    whole_deadline = len([s for k, s in enumerate(seconds) if s is not None and k not in failed]) < fewest
    assert (time.monotonic() - began >= 3.0) == whole_deadline


@pytest.mark.timeout(60)
def test_the_deadline_follows_from_the_rounds_that_were_measured():
    grid = PatientGrid(Slow([0.0, 0.0]), lambda n_asked: 2)
    grid.send_and_receive(messages(2), timeout=3600.0)
    grid.grid.seconds = [0.0, None]
    assert len(grid.send_and_receive(messages(2), timeout=3600.0)) == 1  # it ends


def test_quick_stages_of_a_secure_sum_do_not_cut_the_one_that_trains():
    grid = PatientGrid(Slow([0.0, 0.0]), lambda n_asked: 2)
    for _ in range(3):
        grid.send_and_receive(messages(2, "share keys"), timeout=3600.0)
    grid.grid.seconds = [0.9, 0.9]  # longer than the shortest deadline
    assert len(grid.send_and_receive(messages(2, "collect"), timeout=3600.0)) == 2


def test_later_stages_of_a_secure_sum_need_as_many_as_the_first_asked_for():
    """Ten are asked, two of them leave, and seven of the ten must uncover the sum: not seven of eight's six."""
    needed = []
    grid = PatientGrid(Slow([0.0] * 7 + [0.1] * 3), lambda n_asked: needed.append(n_asked) or 1)
    grid.send_and_receive(messages(10, Stage.SETUP), timeout=3.0)
    grid.send_and_receive(messages(8, Stage.COLLECT_MASKED_VECTORS), timeout=3.0)
    assert set(needed) == {10}
    grid.send_and_receive(messages(8), timeout=3.0)
    assert needed[-1] == 8
