"""A site's command takes up one message after another, also behind one that never comes whole."""

import multiprocessing
import time
from email.utils import formatdate
from types import SimpleNamespace

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest

from federation.deployment import launcher
from federation.deployment.supernode import TooLarge, WatchedClient


def test_a_message_that_never_comes_whole_is_given_up(monkeypatch, tmp_path):
    """Of a run that ends while its message is on the way, Flower keeps the task and waits two hours for the rest."""
    monkeypatch.setattr(launcher, "WHOLE_SECONDS", 0.5)
    monkeypatch.setattr(launcher, "pull_task_input", lambda client: time.sleep(600))
    monkeypatch.setattr(
        launcher, "HeartbeatSender", lambda *words: SimpleNamespace(start=lambda: None, stop=lambda: None)
    )
    monkeypatch.setattr(launcher, "make_task_heartbeat_fn_http", lambda client: None)
    tokens = ["first", "second"]
    client = SimpleNamespace(
        AcquireTask=lambda wanted: SimpleNamespace(token=tokens.pop(0) if tokens else ""), close=lambda: None
    )
    monkeypatch.setattr(launcher, "_runtime", lambda *words: client)
    said = []
    process = SimpleNamespace(poll=lambda: 0 if len(said) == 2 else None)
    supernode = launcher._SuperNode(process, "", b"x" * 32, tmp_path / "asked")
    (tmp_path / "asked").touch()
    launcher._answer_messages(multiprocessing.get_context("fork"), supernode, "approved", said.append)
    assert tokens == [] and len(said) == 2 and all("did not come whole in 0.5 s, and is given up" in s for s in said)


def test_a_supernode_that_asks_nothing_any_more_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher, "SILENT_SECONDS", 0.5)
    client = SimpleNamespace(AcquireTask=lambda wanted: SimpleNamespace(token=""), close=lambda: None)
    monkeypatch.setattr(launcher, "_runtime", lambda *words: client)
    said, asked = [], tmp_path / "asked"
    asked.touch()
    supernode = launcher._SuperNode(SimpleNamespace(poll=lambda: None), "", b"x" * 32, asked)
    launcher._answer_messages(multiprocessing.get_context("fork"), supernode, "approved", said.append)
    assert said == ["the SuperNode has asked the server nothing for 0.5 s; it is started again"]


@pytest.mark.parametrize(
    ("status", "off", "words"),
    [(401, 1200, "clock is 1200 s ahead of"), (401, -1200, "clock is 1200 s behind"), (401, 0, None), (503, 900, None)],
)
def test_a_clock_that_is_wrong_is_told_from_a_key_that_is_not_known(status, off, words):
    answer = httpx.Response(status, headers={"date": formatdate(time.time() - off, usegmt=True)})
    found = launcher._clock_is_off(answer)
    assert (found is None) if words is None else abs(found - off) < 3


@pytest.mark.parametrize(
    ("headers", "path", "words"),
    [
        ({"content-length": "400000000"}, "pull-object", "more than 1000 bytes"),
        ({"transfer-encoding": "chunked"}, "pull-object", "does not say how long"),
        ({"content-length": "900", "content-encoding": "gzip"}, "pull-object", "does not say how long"),
        ({"content-length": "1001"}, "pull-messages", "more than 1000 bytes"),
        ({"content-length": "900"}, "pull-object", None),
    ],
)
def test_a_message_that_is_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch, headers, path, words):
    monkeypatch.setattr(WatchedClient, "asked", tmp_path / "asked", raising=False)
    monkeypatch.setattr(WatchedClient, "most_bytes", 1000, raising=False)
    read = []

    class Body(httpx.SyncByteStream):
        def __iter__(self):
            read.append(1)
            yield b""

    client = WatchedClient("http://server")
    client._client._transport = httpx.MockTransport(lambda request: httpx.Response(200, headers=headers, stream=Body()))
    call, message = {
        "pull-object": (client.PullObject, PullObjectRequest()),
        "pull-messages": (client.PullMessages, PullMessagesRequest()),
    }[path]
    if words is None:
        call(message)
        with pytest.raises(TooLarge, match="more than 1000 bytes"):  # the second object of the same message
            call(message)
    else:
        with pytest.raises(TooLarge, match=words):
            call(message)
        assert not read
    assert (tmp_path / "asked").exists()
