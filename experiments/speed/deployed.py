"""What a message costs at a deployed site: a real server and site over TLS on this machine, by their own logs."""

import csv
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from data.errors import FailedError

ROUNDS, PATIENCE = 8, 120.0
SITE = """\
[[site]]
name = "site"
[[site.dataset]]
source = "simulated:clinic"
options = { n_subjects = 2, n_runs = 2, n_trials = 10 }
tasks = ["right_hand", "rest"]
targets = [2]
calibration = { runs = ["0"] }
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
    folder.mkdir(parents=True)
    (folder / "fed.toml").write_text(f'name = "idle"\n[contract]\nmin_sites = 1\n[training]\nrounds = {ROUNDS}\n')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    _do(folder, "server", "init", "server", "--host", "127.0.0.1", "--port", port, "--from", "fed.toml")
    _do(folder, "site", "init", "site", "--invitation", "server/invitation.toml", "--name", "site")
    (folder / "site" / "site.toml").write_text(SITE)
    _do(folder, "server", "add-site", "server", "site/site.pub")
    _do(folder, "site", "check", "site", "--offline")
    running = []
    try:
        running.append(_start(folder, "server"))
        _wait_for(folder, "server", "listens to sites")
        running.append(_start(folder, "site"))
        _wait_for(folder, "site", "connected to")
        _do(folder, "server", "train", "server")
        _wait_for(folder, "site", "answered a message", ROUNDS + 1)  # the last one hands out the last layers
        time.sleep(0.5)
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait()
    said = (folder / "site.log").read_text()
    whole = [float(number) for number in re.findall(r"answered a message in ([\d.]+) s", said)]
    work = [float(number) for number in re.findall(r"round \d+: \d+ trials, loss [\d.]+, ([\d.]+) s", said)]
    (timing,) = folder.glob("server/runs/*/timing.csv")
    with timing.open(newline="") as file:
        rounds = [float(row["round_seconds"]) for row in csv.DictReader(file)]
    return MessageSeconds([a - b for a, b in zip(whole, work, strict=False)], rounds)


def _do(folder: Path, *words: str) -> None:
    done = subprocess.run([*_command(), *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(f"mfscsn {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")


def _start(folder: Path, name: str) -> "subprocess.Popen[bytes]":
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen([*_command(), name, "run", name], cwd=folder, stdout=log, stderr=log)


def _wait_for(folder: Path, name: str, words: str, times: int = 1) -> None:
    end = time.monotonic() + PATIENCE
    while (folder / f"{name}.log").read_text().count(words) < times:
        if time.monotonic() > end:
            raise FailedError(f"{name} did not say {words!r} in {PATIENCE:g} s: {(folder / f'{name}.log').read_text()}")
        time.sleep(0.1)


def _command() -> list[str]:
    return [sys.executable, "-P", "-m", "experiments.cli.main"]
