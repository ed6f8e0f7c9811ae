"""Programs that may not outlive the command that started them, and how they are found.

Run as a module, this file is the guard: it starts a program, and when its standard input closes, because the command
that started it ended or was killed, it ends every process below it.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from data.errors import InputError

PR_SET_CHILD_SUBREAPER = 36
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def start_guarded(
    command: Sequence[str], log: Path | None, environment: Mapping[str, str], folder: Path, remove: bool = False
) -> "subprocess.Popen[bytes]":
    """Start a program below a guard, in `folder`; all that it prints is added to the file `log`, or printed here.

    Parameters
    ----------
    command : list of str
    log, folder : Path
    environment : mapping
    remove : bool
        Whether the folder goes when the program has ended.
    """
    with nullcontext() if log is None else log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "federation.guard", str(folder) if remove else "", *command],
            stdin=subprocess.PIPE, stdout=out, stderr=out, env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip


def end_guarded(guard: "subprocess.Popen[bytes]") -> None:
    """End a guarded program and all that it started, and wait for that."""
    assert guard.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        guard.stdin.close()
    guard.wait()


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment that Flower's programs run in; `home` is Flower's own folder."""
    return {
        **os.environ,
        # Flower starts its own programs by name
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONSAFEPATH": "1",  # a folder `data` where the user stands is not our package
    }


def keep_loopback_direct() -> None:
    """Let no proxy of the environment take what stays on this machine, here and in all that is started from here."""
    for name in ("no_proxy", "NO_PROXY"):
        known = [place for place in os.environ.get(name, "").split(",") if place]
        os.environ[name] = ",".join(dict.fromkeys([*known, *LOOPBACK]))


def end_with(pid: int) -> None:
    """End this process soon after another one has ended, whatever it is doing."""
    import psutil

    def watch() -> None:
        while psutil.pid_exists(pid):
            time.sleep(0.3)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """Find a program of this Python environment; raise InputError when it is missing."""
    path = Path(sys.executable).with_name(name)
    place = str(path) if path.exists() else shutil.which(name)
    if place is None:
        raise InputError(f"{name} is not installed beside {sys.executable}; install mfscsn there")
    return place


def _guard(remove: str, command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; then leave nothing behind."""
    import psutil

    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans below become our children, so that none is missed
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def watch(wait: Any) -> None:
        wait()
        over.set()

    for wait in (lambda: os.read(0, 1), child.wait):
        threading.Thread(target=watch, args=(wait,), daemon=True).start()
    over.wait()

    me = psutil.Process()
    for grace, end in ((2.0, psutil.Process.terminate), (5.0, psutil.Process.kill), (5.0, psutil.Process.kill)):
        below = me.children(recursive=True)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        psutil.wait_procs(below, timeout=grace)
    if remove:
        shutil.rmtree(remove, ignore_errors=True)
    return child.poll() or 0


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1], sys.argv[2:]))
