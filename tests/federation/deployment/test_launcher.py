"""A site's command takes up one message after another, also behind one that never comes whole."""

import contextlib
import logging
import multiprocessing
import time
from email.utils import formatdate
from types import SimpleNamespace

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.supernode import fleet_http_connection

from data.errors import InputError
from federation.deployment import launcher, server_link, supernode
from federation.deployment.keys import make_site_key
from federation.deployment.supernode import TooLarge, WatchedClient

LOGGERS = ("flwr", "uvicorn", "uvicorn.error")


@pytest.mark.timeout(60)
def test_a_message_that_never_comes_whole_is_given_up_with_what_waits_behind_it(monkeypatch, tmp_path):
    """Of a run that ends while its message is on the way, Flower keeps the task and waits two hours for the rest."""
    monkeypatch.setattr(launcher, "WHOLE_SECONDS", 0.5)
    monkeypatch.setattr(launcher, "CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr("federation.flower_internals.message.pull_task_input", lambda client: time.sleep(600))
    monkeypatch.setattr(
        launcher, "HeartbeatSender", lambda *words: SimpleNamespace(start=lambda: None, stop=lambda: None)
    )
    monkeypatch.setattr(launcher, "make_task_heartbeat_fn_http", lambda client: None)
    tokens = ["first", "second"]
    client = SimpleNamespace(
        AcquireTask=lambda wanted: SimpleNamespace(token=tokens.pop(0) if tokens else ""), close=lambda: None
    )
    monkeypatch.setattr(launcher, "_runtime", lambda *words: client)
    said, process = [], SimpleNamespace(poll=lambda: None)
    supernode = launcher._SuperNode(process, "", b"x" * 32, tmp_path / "asked")
    (tmp_path / "asked").touch()
    launcher._answer_messages(lambda: None, supernode, "approved", said.append)
    # Behind it may be more of that kind, each of which would take as long: two sites were away for seven rounds
    assert tokens == ["second"] and len(said) == 1
    assert "did not come whole in 0.5 s" in said[0] and "the SuperNode is started again" in said[0]


def test_what_training_needs_is_imported_for_a_message_and_given_back_after_a_while(monkeypatch, tmp_path):
    """A site waits for days between runs; torch is half a gigabyte."""
    did: list[str] = []
    tokens = ["first", "second"]
    process = SimpleNamespace(start=lambda: did.append("answers"), is_alive=lambda: False, exitcode=0)
    context = SimpleNamespace(Event=lambda: None, Process=lambda **words: process)
    monkeypatch.setattr(launcher, "WARM_SECONDS", 0.2)
    monkeypatch.setattr(launcher, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(launcher, "CONTEXT", context)
    monkeypatch.setattr(launcher, "cool_down", lambda: did.append("gives back"))

    def acquire(wanted):
        due = len(tokens) == 2 or did[-1] == "gives back"
        return SimpleNamespace(token=tokens.pop(0) if tokens and due else "")

    client = SimpleNamespace(AcquireTask=acquire, close=lambda: None)
    monkeypatch.setattr(launcher, "_runtime", lambda *words: client)
    ends = SimpleNamespace(poll=lambda: 0 if did.count("gives back") == 2 else None)
    (tmp_path / "asked").touch()
    supernode = launcher._SuperNode(ends, "", b"x" * 32, tmp_path / "asked")
    launcher._answer_messages(lambda: did.append("imports"), supernode, "approved", lambda line: None)
    assert did == ["imports", "answers", "gives back"] * 2


@pytest.mark.timeout(60)
def test_a_supernode_that_asks_nothing_any_more_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher, "SILENT_SECONDS", 0.5)
    client = SimpleNamespace(AcquireTask=lambda wanted: SimpleNamespace(token=""), close=lambda: None)
    monkeypatch.setattr(launcher, "_runtime", lambda *words: client)
    said, asked = [], tmp_path / "asked"
    asked.touch()
    supernode = launcher._SuperNode(SimpleNamespace(poll=lambda: None), "", b"x" * 32, asked)
    launcher._answer_messages(lambda: None, supernode, "approved", said.append)
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


def test_the_supernode_runs_with_the_watched_client_and_ends_with_its_loop(monkeypatch, tmp_path):
    ended = []
    monkeypatch.setattr(supernode, "flower_supernode", lambda: ended.append("loop"))
    monkeypatch.setattr(supernode.os, "_exit", ended.append)
    monkeypatch.setattr(supernode.sys, "argv", [])
    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", fleet_http_connection.FleetHttpClient)
    monkeypatch.setattr(WatchedClient, "asked", None, raising=False)
    monkeypatch.setattr(WatchedClient, "most_bytes", 0, raising=False)
    supernode.run(tmp_path / "asked", 1000, ["--superlink", "x"])
    assert fleet_http_connection.FleetHttpClient is WatchedClient and WatchedClient.most_bytes == 1000
    assert ended == ["loop", 1]


def test_pauses_between_tries_grow(monkeypatch, tmp_path):
    class Enough(Exception):
        pass

    pauses, said = [], []

    def rest(seconds):
        pauses.append(seconds)
        if len(pauses) == 6:
            raise Enough

    def gone(home):
        raise launcher.Unreachable("nobody is there")

    monkeypatch.setattr(launcher, "check_connection", gone)
    monkeypatch.setattr(launcher, "warm_up", lambda *words: None)
    monkeypatch.setattr(launcher, "bundle_hash", lambda: "approved")
    pool = SimpleNamespace(apply=lambda *words: 1000)
    context = SimpleNamespace(Pool=lambda n: contextlib.nullcontext(pool))
    monkeypatch.setattr(launcher, "CONTEXT", context)
    monkeypatch.setattr(launcher, "cool_down", lambda: None)
    monkeypatch.setattr(launcher.time, "sleep", rest)
    home = SimpleNamespace(
        invitation=SimpleNamespace(app="approved"), site=SimpleNamespace(privacy=None), threads=1, path=tmp_path
    )
    with pytest.raises(Enough):
        launcher.run_site(home, said.append)
    assert pauses == sorted(pauses) and pauses[-1] == launcher.LONGEST_PAUSE > pauses[1] > pauses[0]
    assert [line for line in said if "nobody" in line] == ["nobody is there; tries again"]  # once


def test_a_site_whose_clock_is_wrong_is_told_so_when_it_connects(monkeypatch, tmp_path):
    """The server refuses what is signed in the future; nothing is wrong with the key."""
    make_site_key("north", tmp_path / "site.key", tmp_path / "north.pub")
    home = SimpleNamespace(
        path=tmp_path, key=tmp_path / "site.key", public_key=tmp_path / "north.pub",
        site=SimpleNamespace(name="north"), invitation=SimpleNamespace(server="fl.example:1", certificate=""),
    )  # fmt: skip
    off = 0.0

    def refused(request):
        answer = httpx.Response(401, headers={"date": formatdate(time.time() - off, usegmt=True)})
        raise httpx.HTTPStatusError("401", request=httpx.Request("POST", "https://fl.example"), response=answer)

    class Client(contextlib.nullcontext):
        ActivateNode = staticmethod(refused)

    made = SimpleNamespace(from_server_address=lambda *words, **options: Client())
    monkeypatch.setattr(launcher, "FleetHttpClient", made)
    with pytest.raises(InputError, match="does not know this site's key; send north.pub to the coordinator"):
        launcher.check_connection(home)
    off = 1200.0
    with pytest.raises(launcher.Unreachable, match="clock is 1[12].. s ahead of the server's.*set the clock .NTP.$"):
        launcher.check_connection(home)
    assert not (tmp_path / "flower").exists()


def test_a_log_that_has_grown_begins_anew_and_the_one_before_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher, "LOG_BYTES", 100)
    monkeypatch.setattr(launcher, "start_guarded", lambda command, log, *words: log.open("a").write("new\n"))
    monkeypatch.setattr(launcher, "end_guarded", lambda process: None)
    invitation = SimpleNamespace(server="fl.example:1", certificate="")
    home, log = SimpleNamespace(path=tmp_path, key="key", invitation=invitation), tmp_path / "flower" / "supernode.log"
    for before, kept in (("short\n", None), ("long\n" * 50, "long\n" * 50)):
        log.parent.mkdir(exist_ok=True)
        log.write_text(before)
        with launcher._supernode(home, 1000):
            pass
        old = log.with_name("supernode.log.1")
        assert (old.read_text() if old.exists() else None) == kept
        assert log.read_text() == ("new\n" if kept else before + "new\n")


def test_a_servers_logs_are_rotated(monkeypatch, tmp_path):
    monkeypatch.setattr(server_link, "LOG_BYTES", 1000)
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in LOGGERS}
    try:
        server_link._log_to(tmp_path / "server.log")
        for number in range(400):
            logging.getLogger("flwr").info("line %d of what Flower says", number)
    finally:
        for name, (handlers, propagate) in before.items():
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate
    found = sorted(tmp_path.iterdir())
    assert len(found) == 1 + server_link.LOGS and all(path.stat().st_size <= 1000 for path in found)
    assert "line 399" in (tmp_path / "server.log").read_text()
