"""The guard: what it started ends with whoever started the guard, however that ended. Loopback takes no proxy."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import httpx
import psutil
import pytest
from conftest import mfscsn

from federation.guard import LOOPBACK, free_port, keep_loopback_direct

# A process that starts a child of its own, in its own session, as Ray does
FAMILY = "import subprocess, sys, time; subprocess.Popen(['sleep', '301'], start_new_session=True); time.sleep(300)"


def start_guard(home, ignore_end=False):
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if ignore_end else ""
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "federation.guard", str(home), sys.executable, "-c", ignore + FAMILY],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    end = time.monotonic() + 30
    while len(below := psutil.Process(guard.pid).children(recursive=True)) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    return guard, below


@pytest.mark.skipif(sys.platform != "linux", reason="the guard adopts orphans on Linux only")
@pytest.mark.parametrize("how", ["closed", "terminated", "child gone", "stubborn"])
def test_nothing_is_left_behind(tmp_path, how):
    home = tmp_path / "home"
    home.mkdir()
    guard, below = start_guard(home, ignore_end=how == "stubborn")
    if how == "terminated":
        guard.send_signal(signal.SIGTERM)
    elif how == "child gone":
        os.kill(below[0].pid, signal.SIGKILL)
    else:
        guard.stdin.close()
    guard.wait(timeout=30)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in below)
    assert not home.exists()


@pytest.fixture
def answering():
    """A server on loopback that answers every question."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxied(monkeypatch):
    """An environment whose proxy nobody answers at."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "hospital.example")


def test_loopback_takes_no_proxy(proxied, answering, monkeypatch):
    with pytest.raises(httpx.ConnectError):
        httpx.get(answering)
    keep_loopback_direct()
    assert httpx.get(answering).status_code == 200
    assert urllib.request.urlopen(answering, timeout=5).status == 200
    assert urllib.request.proxy_bypass("hospital.example")  # what was said stays


def test_every_command_keeps_loopback_direct(proxied, tmp_path):
    assert mfscsn("--version", cwd=tmp_path)[0] == 0
    assert all(urllib.request.proxy_bypass(place) for place in LOOPBACK)
