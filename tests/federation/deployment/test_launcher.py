"""A site's command takes up one message after another, also behind one that never comes whole."""

import multiprocessing
import time
from types import SimpleNamespace

from federation.deployment import launcher


def test_a_message_that_never_comes_whole_is_given_up(monkeypatch):
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
    supernode = SimpleNamespace(poll=lambda: 0 if len(said) == 2 else None)
    launcher._answer_messages(multiprocessing.get_context("fork"), supernode, "", b"x" * 32, "approved", said.append)
    assert tokens == [] and len(said) == 2 and all("did not come whole in 0.5 s, and is given up" in s for s in said)
