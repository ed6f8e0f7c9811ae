"""What a message costs at a deployed site: a real server and site over TLS on this machine, by their own logs."""

import csv
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.errors import FailedError

ROUNDS, PATIENCE = 8, 120.0
N_SITES = 9  # of one message
SITE = """\
[[site]]
name = "{name}"
[[site.dataset]]
source = "simulated:clinic"
options = {{ n_subjects = 2, n_runs = 2, n_trials = 10 }}
tasks = ["right_hand", "rest"]
targets = [2]
calibration = {{ runs = ["0"] }}
"""


@dataclass(frozen=True)
class MessageSeconds:
    """Of each message: start to exit of its process, less the training in it; of each round: all that it took."""

    idle: list[float]
    rounds: list[float]


def message_seconds(folder: Path) -> MessageSeconds:
    """Deploy a server and one small site below `folder`, train, and read how long messages took.

    Raises
    ------
    FailedError
        When one of the commands fails; the message quotes it.
    """
    federation = f'name = "idle"\n[contract]\nmin_sites = 1\n[training]\nrounds = {ROUNDS}\n'
    with _deployed(folder, federation, ["site"]):
        _do(folder, "server", "train", "server")
        _wait_for(folder, "site", "answered a message", ROUNDS + 1)  # the last one hands out the last layers
        time.sleep(0.5)
    said = (folder / "site.log").read_text()
    whole = [float(number) for number in re.findall(r"answered a message in ([\d.]+) s", said)]
    work = [float(number) for number in re.findall(r"round \d+: \d+ trials, loss [\d.]+, ([\d.]+) s", said)]
    (timing,) = folder.glob("server/runs/*/timing.csv")
    with timing.open(newline="") as file:
        rounds = [float(row["round_seconds"]) for row in csv.DictReader(file)]
    return MessageSeconds([a - b for a, b in zip(whole, work, strict=False)], rounds)


def one_message_seconds(folder: Path) -> float:
    """Deploy a server and nine small sites below `folder`; time `server train`, whole, of one masked message each.

    Raises
    ------
    FailedError
        As `message_seconds`.
    """
    federation = (
        'name = "sums"\n[contract]\nstrategy = "one-message"\nlabels = ["right_hand", "rest"]\n'
        f"min_sites = {N_SITES - N_SITES // 3}\n"
    )
    with _deployed(folder, federation, [f"site-{k}" for k in range(N_SITES)]):
        began = time.monotonic()
        _do(folder, "server", "train", "server")
        return time.monotonic() - began


@contextmanager
def _deployed(folder: Path, federation: str, sites: Sequence[str]) -> Iterator[None]:
    """Make a server and sites below a folder, and have them run as long as the block lasts."""
    folder.mkdir(parents=True)
    (folder / "fed.toml").write_text(federation)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    _do(folder, "server", "init", "server", "--host", "127.0.0.1", "--port", port, "--from", "fed.toml")
    for name in sites:
        _do(folder, "site", "init", name, "--invitation", "server/invitation.toml", "--name", name)
        (folder / name / "site.toml").write_text(SITE.format(name=name))
        _do(folder, "server", "add-site", "server", f"{name}/{name}.pub")
        _do(folder, "site", "check", name, "--offline")
    running = []
    try:
        running.append(_start(folder, "server", "server"))
        _wait_for(folder, "server", "listens to sites")
        running += [_start(folder, "site", name) for name in sites]
        for name in sites:
            _wait_for(folder, name, "connected to")
        yield
    finally:
        for process in reversed(running):
            process.terminate()
        for process in reversed(running):
            process.wait()


def _do(folder: Path, *words: str) -> None:
    done = subprocess.run([*_command(), *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(f"mfscsn {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")


def _start(folder: Path, what: str, name: str) -> "subprocess.Popen[bytes]":
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen([*_command(), what, "run", name], cwd=folder, stdout=log, stderr=log)


def _wait_for(folder: Path, name: str, words: str, times: int = 1) -> None:
    end = time.monotonic() + PATIENCE
    while (folder / f"{name}.log").read_text().count(words) < times:
        if time.monotonic() > end:
            raise FailedError(f"{name} did not say {words!r} in {PATIENCE:g} s: {(folder / f'{name}.log').read_text()}")
        time.sleep(0.1)


def _command() -> list[str]:
    return [sys.executable, "-P", "-m", "experiments.cli.main"]
