"""The guard: what it started ends with whoever started the guard, however that ended."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

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
