"""A SuperLink of our own for one simulated run: started on a free port, ended with everything it started.

Run as a module, this file is the guard: it starts the SuperLink, and when its standard input closes, because the
command that started it ended or was killed, it ends every process below it and removes their temporary folder.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import InputError

CONNECTION = "mfscsn"
START_SECONDS, LOG_SECONDS = 60.0, 20.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

APP = """\
[project]
name = "mfscsn-run"
version = "0.1.0"
description = "the installed MF-SCSN"
license = "BSD-3-Clause"

[tool.flwr.app]
publisher = "mfscsn"

[tool.flwr.app.components]
serverapp = "mfscsn_app:server"
clientapp = "mfscsn_app:client"

[tool.flwr.app.config]
run = ""
store = ""
federation = ""
threads = 1
"""
APP_MODULE = """\
from federation import client_app, server_app

client = client_app.app
server = server_app.app
"""


class SuperLink:
    """A running SuperLink; made by `superlink`.

    Parameters
    ----------
    home : Path
        Flower's home of this SuperLink.
    environment : mapping
        For the processes that talk to it.
    """

    def __init__(self, home: Path, environment: Mapping[str, str], guard: "subprocess.Popen[bytes]"):
        self.home, self.environment, self.guard = home, dict(environment), guard

    def start_run(self, run_config: Mapping[str, Any], n_sites: int, n_parallel: int) -> str:
        """Submit the installed apps; give the run's identity."""
        app = self.home / "app"
        app.mkdir()
        (app / "pyproject.toml").write_text(APP)
        (app / "mfscsn_app.py").write_text(APP_MODULE)
        simulation = {
            "num-supernodes": n_sites,
            "client-resources-num-cpus": 1,
            "init-args-num-cpus": n_parallel,
        }
        answer = self._flwr("run", str(app), CONNECTION, "--run-config", _pairs(run_config), "--federation-config",
                            _pairs(simulation))  # fmt: skip
        return str(answer["run-id"])

    def status(self, run: str) -> str:
        """Give Flower's own status of a run, such as ``running`` or ``finished:failed``."""
        runs = self._flwr("list", CONNECTION)["runs"]
        return next((str(entry["status"]) for entry in runs if str(entry["run-id"]) == run), "unknown")

    def save_log(self, run: str, path: Path) -> None:
        """Add what the run's own processes printed to a file, once the run has ended; Flower keeps that apart."""
        end = time.monotonic() + LOG_SECONDS  # its last lines, and the traceback, arrive late
        while not self.status(run).startswith("finished") and time.monotonic() < end:
            time.sleep(0.5)
        with path.open("ab") as out:
            subprocess.run(
                [_program("flwr"), "log", run, CONNECTION, "--show"],
                env=self.environment, cwd=self.home, stdout=out, stderr=out, check=False,
            )  # fmt: skip

    def alive(self) -> bool:
        """Say whether the SuperLink still runs."""
        return self.guard.poll() is None

    def _flwr(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [_program("flwr"), *words, "--format", "json"],
            env=self.environment, cwd=self.home, capture_output=True, text=True, check=False,
        )  # fmt: skip
        start = done.stdout.find("{")
        if done.returncode != 0 or start < 0:
            raise RuntimeError(f"flwr {words[0]} failed: {(done.stdout + done.stderr).strip()}")
        answer: dict[str, Any] = json.loads(done.stdout[start:])
        if not answer.get("success", True):
            raise RuntimeError(f"flwr {words[0]} failed: {answer.get('error-message', answer)}")
        return answer


@contextmanager
def superlink(log: Path) -> Iterator[SuperLink]:
    """Run a SuperLink for simulation as long as the block lasts; all that it prints goes to the file `log`.

    Raises
    ------
    InputError
        When it does not answer in time.
    """
    # A short path: Ray's sockets lie in it, and their names may not exceed 107 characters
    home = Path(tempfile.mkdtemp(prefix="mfscsn-", dir="/tmp" if Path("/tmp").is_dir() else None))
    port = _free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = {
        **os.environ,
        # Flower starts its own programs by name
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONSAFEPATH": "1",  # a folder `data` where the user stands is not our package
    }
    command = [
        _program("flower-superlink"), "--simulation", "--insecure", "--host", "127.0.0.1", "--port", str(port),
        "--isolation", "subprocess", "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    with log.open("ab") as out:
        guard = subprocess.Popen(
            [sys.executable, "-P", "-m", "federation.superlink", str(home), *command],
            stdin=subprocess.PIPE, stdout=out, stderr=out, env=environment, cwd=home, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_healthy(guard, port, log)
        yield SuperLink(home, environment, guard)
    finally:
        assert guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.close()
        guard.wait()


def die_with_parent() -> None:
    """Have Linux end this process when its parent ends; elsewhere do nothing."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _guard(home: Path, command: list[str]) -> int:
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
    shutil.rmtree(home, ignore_errors=True)
    return child.poll() or 0


def _wait_until_healthy(guard: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and guard.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise InputError(f"Flower's SuperLink did not start on 127.0.0.1:{port}; {log} says why")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program(name: str) -> str:
    """Find a program of this Python environment."""
    path = Path(sys.executable).with_name(name)
    found = str(path) if path.exists() else shutil.which(name)
    if found is None:
        raise InputError(f"{name} is not installed beside {sys.executable}; install mfscsn there")
    return found


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(_guard(Path(sys.argv[1]), sys.argv[2:]))
