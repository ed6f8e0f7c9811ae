"""What commands start, and how it is found."""

import http.server
import threading
import urllib.request

import httpx
import pytest
from conftest import mfscsn

from federation.guard import LOOPBACK, free_port, keep_loopback_direct


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
