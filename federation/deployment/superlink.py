"""A SuperLink, Flower's server: one of our own for one simulated run, or one that is talked to."""

import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import FailedError, InputError
from federation.deployment.app_bundle import write_app
from federation.guard import end_guarded, flower_environment, free_port, program, start_guarded

CONNECTION = "mfscsn"
START_SECONDS, LOG_SECONDS = 60.0, 20.0


class SuperLink:
    """A SuperLink on this machine, as its commands see it.

    Parameters
    ----------
    home : Path
        Flower's home, with the connection in ``config.toml``.
    port : int
        Of 127.0.0.1, where it listens to commands.
    """

    def __init__(self, home: Path, port: int):
        self.home, self.port, self.environment = home, port, flower_environment(home)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "127.0.0.1:{port}"\ninsecure = true\n'
        )

    def start_run(self, run_config: Mapping[str, Any], federation_config: Mapping[str, Any] | None = None) -> str:
        """Submit the installed apps; return the run's identity."""
        with tempfile.TemporaryDirectory(dir=self.home) as folder:
            write_app(Path(folder) / "app")
            words = ["run", f"{folder}/app", CONNECTION, "--run-config", _pairs(run_config)]
            if federation_config:
                words += ["--federation-config", _pairs(federation_config)]
            return str(self._flwr(*words)["run-id"])

    def stop_run(self, run: str) -> None:
        """End a run."""
        self._flwr("stop", run, CONNECTION)

    def status(self, run: str) -> str:
        """Return Flower's own status of a run, such as ``running`` or ``finished:failed``."""
        runs = self._flwr("list", CONNECTION)["runs"]
        return next((str(entry["status"]) for entry in runs if str(entry["run-id"]) == run), "unknown")

    def save_log(self, run: str, path: Path) -> None:
        """Add what the run's own processes printed to a file, once the run has ended; Flower keeps that apart."""
        end = time.monotonic() + LOG_SECONDS  # its last lines, and the traceback, arrive late
        while not self.status(run).startswith("finished") and time.monotonic() < end:
            time.sleep(0.5)
        with path.open("ab") as out:
            subprocess.run(
                [program("flwr"), "log", run, CONNECTION, "--show"],
                env=self.environment, cwd=self.home, stdout=out, stderr=out, check=False,
            )  # fmt: skip

    def alive(self) -> bool:
        """Return whether the SuperLink answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _flwr(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [program("flwr"), *words, "--format", "json"],
            env=self.environment, cwd=self.home, capture_output=True, text=True, check=False,
        )  # fmt: skip
        start = done.stdout.find("{")
        if done.returncode != 0 or start < 0:
            raise FailedError(f"flwr {words[0]} failed: {(done.stdout + done.stderr).strip()}")
        answer: dict[str, Any] = json.loads(done.stdout[start:])
        if not answer.get("success", True):
            raise FailedError(f"flwr {words[0]} failed: {answer.get('error-message', answer)}")
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
    home = Path(tempfile.mkdtemp(prefix="mfscsn-", dir="/tmp" if Path("/tmp").is_dir() else None))  # noqa: S108 mkdtemp makes the name
    link = SuperLink(home, free_port())
    link.environment |= {"RAY_TMPDIR": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [
        program("flower-superlink"), "--simulation", "--insecure", "--host", "127.0.0.1", "--port", str(link.port),
        "--isolation", "subprocess", "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    guard = start_guarded(command, log, link.environment, home, remove=True)
    try:
        end = time.monotonic() + START_SECONDS
        while not link.alive():
            if guard.poll() is not None or time.monotonic() > end:
                raise InputError(f"Flower's SuperLink did not start on 127.0.0.1:{link.port}; {log} says why")
            time.sleep(0.1)
        yield link
    finally:
        end_guarded(guard)


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
