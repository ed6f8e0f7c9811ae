"""A site's folder: its private layers and optimiser, its log. What lies here never leaves.

The private state carries the run and round that it belongs to. The newest two are kept, so that a round which the
server never finished can be trained again from where it began.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from data.errors import InputError
from data.files import replaced
from federation.events import event

NEWEST, BEFORE = "private.safetensors", "private-before.safetensors"
FAILURE = "failure.txt"


class SiteFolder:
    """Where a site keeps what is its own in one run.

    Parameters
    ----------
    folder : Path
        Made when missing.
    run : str
        The run's identity; state of another run is refused.
    """

    def __init__(self, folder: Path, run: str):
        self.folder, self.run = folder, run
        folder.mkdir(parents=True, exist_ok=True)

    def save_private(
        self, round_number: int, layers: Mapping[str, Tensor], optimiser: Mapping[str, Tensor], trials: str
    ) -> None:
        """Keep the state after a round, bound to the digest of the trials that it was trained on.

        What was there is replaced in one step, or not at all.
        """
        newest = self._round(self.folder / NEWEST)
        if newest is not None and newest < round_number:
            (self.folder / NEWEST).replace(self.folder / BEFORE)
        write_tensors(
            self.folder / NEWEST,
            {f"layer:{k}": v for k, v in layers.items()} | {f"optimiser:{k}": v for k, v in optimiser.items()},
            {"run": self.run, "round": str(round_number), "trials": trials},
        )

    def private_round(self, up_to: int) -> int | None:
        """Number the round of the newest private state not past round `up_to`; None when there is none."""
        rounds = [number for name in (NEWEST, BEFORE) if (number := self._round(self.folder / name)) is not None]
        return max((number for number in rounds if number <= up_to), default=None)

    def load_private(self, up_to: int, trials: str) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
        """Return (layers, optimiser) of the newest state not past round `up_to`; None when there is none.

        Raises
        ------
        InputError
            When the state belongs to another run, or was trained on trials of another digest.
        """
        number = self.private_round(up_to)
        if number is None:
            return None
        path = self.folder / (NEWEST if self._round(self.folder / NEWEST) == number else BEFORE)
        tensors, about = read_tensors(path)
        if about.get("trials") != trials:
            raise InputError(f"{path}: trained on other trials than are prepared now; start a new run")
        parts: dict[str, dict[str, Tensor]] = {"layer": {}, "optimiser": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition(":")
            parts[kind][name] = value
        return parts["layer"], parts["optimiser"]

    def log(self, line: str) -> None:
        """Add a line to the site's own log, and to what this process prints: no label, subject or channel in it."""
        text = event(f"site {self.folder.name} {line}")
        with contextlib.suppress(OSError), (self.folder / "log.txt").open("a") as out:  # a full disk fails no round
            out.write(f"{text}\n")

    def fail(self, reason: str) -> None:
        """Write down all that is known of the last failure; this may name subjects and labels, so it is no log."""
        fail(self.folder, reason)

    def forget_failure(self) -> None:
        """Remove what was written down of an earlier failure."""
        (self.folder / FAILURE).unlink(missing_ok=True)

    def failure(self) -> str | None:
        """Return why the site failed last, if it did."""
        path = self.folder / FAILURE
        return path.read_text() if path.exists() else None

    def _round(self, path: Path) -> int | None:
        if not path.exists():
            return None
        _, metadata = read_tensors(path, metadata_only=True)
        if metadata.get("run") != self.run:
            raise InputError(f"{path}: private layers of another run ({metadata.get('run')}); move them away")
        return int(metadata["round"])


def fail(folder: Path, reason: str) -> None:
    """Write ``failure.txt`` in a folder, if the disk lets us."""
    with contextlib.suppress(OSError), replaced(folder / FAILURE) as out:
        out.write(reason.encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, in one step."""
    content = save({name: value.contiguous() for name, value in tensors.items()}, dict(metadata))
    with replaced(path) as out:
        out.write(content)


def read_tensors(path: Path, metadata_only: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read safetensors; raise InputError that names the file when it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            names = [] if metadata_only else file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
