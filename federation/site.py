"""A site's folder: its private layers and optimiser, its log. What lies here never leaves.

The private state carries the run and round that it belongs to. The newest two are kept, so that a round which the
server never finished can be trained again from where it began.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from data.errors import InputError
from data.files import replaced
from federation.events import event

if TYPE_CHECKING:
    from torch import Tensor

NEWEST, BEFORE = "private.safetensors", "private-before.safetensors"
FAILURE, SUMMED, SENT, START = "failure.txt", "summed.json", "sent.safetensors", "start.json"
DIGEST = "sha256"  # of the values, in the metadata


class AlreadySummed(InputError):
    """A secure sum of this round, or of what sites made of the same layers, was uncovered over other sites before."""


class DamagedError(InputError):
    """A file of tensors that is missing, cut, or not what was written."""


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
        self, round_number: int, layers: Mapping[str, "Tensor"], optimiser: Mapping[str, "Tensor"], trials: str
    ) -> None:
        """Keep the state after a round, bound to the digest of the trials that it was trained on.

        What was there is replaced in one step, or not at all.

        Raises
        ------
        InputError
            When a value is not finite; nothing is replaced.
        """
        check_finite(layers)
        check_finite(optimiser)
        newest = self._round(self.folder / NEWEST) if self._is_intact(self.folder / NEWEST) else None
        if newest is not None and newest < round_number:  # else the round before is worth more
            (self.folder / NEWEST).replace(self.folder / BEFORE)
        write_tensors(
            self.folder / NEWEST,
            {f"layer:{k}": v for k, v in layers.items()} | {f"optimiser:{k}": v for k, v in optimiser.items()},
            {"run": self.run, "round": str(round_number), "trials": trials},
        )

    def private_round(self, up_to: int) -> int | None:
        """Number the round of the newest private state not past round `up_to`; None when there is none."""
        return max((number for number, _ in self._kept(up_to)), default=None)

    def load_private(self, up_to: int, trials: str) -> tuple[dict[str, "Tensor"], dict[str, "Tensor"]] | None:
        """Return (layers, optimiser) of the newest state not past round `up_to`; None when there is none.

        Where the newest is damaged and the round before is there, that one serves, and the log says so.

        Raises
        ------
        InputError
            When the state is damaged and there is no other, belongs to another run, or was trained on trials of another
            digest.
        """
        kept = self._kept(up_to)
        for place, (number, path) in enumerate(kept, 1):
            try:
                tensors, about = read_tensors(path)
            except DamagedError:
                if place == len(kept):
                    raise
                self.log(f"round {number}: {path.name} is damaged; goes on with the private layers of the round before")
                continue
            if about.get("trials") != trials:
                raise InputError(f"{path}: trained on other trials than are prepared now; start a new run")
            parts: dict[str, dict[str, Tensor]] = {"layer": {}, "optimiser": {}}
            for key, value in tensors.items():
                kind, _, name = key.partition(":")
                parts[kind][name] = value
            return parts["layer"], parts["optimiser"]
        return None

    def save_sent(self, round_number: int, layers: Mapping[str, "Tensor"], trials: str) -> None:
        """Keep a message with noise: asked again, the site sends the same, for other noise would tell more."""
        about = {"run": self.run, "round": str(round_number), "trials": trials}
        write_tensors(self.folder / SENT, layers, about)

    def load_sent(self, round_number: int, trials: str) -> dict[str, "Tensor"] | None:
        """Return the message that was kept for this round and these trials; None when there is none."""
        path = self.folder / SENT
        if not path.exists():
            return None
        layers, about = read_tensors(path)
        now = {"run": self.run, "round": str(round_number), "trials": trials}
        return layers if {key: about.get(key) for key in now} == now else None

    def keep_start(self, round_number: int, layers: Mapping[str, "Tensor"]) -> None:
        """Keep the digest of the common layers that a round begins from, until its sum is uncovered."""
        with replaced(self.folder / START) as out:
            out.write(json.dumps({"round": round_number, "start": _digest(layers)}).encode())

    def start(self, round_number: int) -> str:
        """Return the digest that `keep_start` kept; raise InputError when this site trained nothing in that round."""
        path = self.folder / START
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("round") != round_number:
            raise InputError(f"the server uncovers a sum of round {round_number}, in which this site trained nothing")
        return str(kept["start"])

    def uncovers(self, round_number: int, nodes: Sequence[int], trials: str = "") -> None:
        """Write down that a round's secure sum over these nodes is about to be uncovered, and of which trials.

        Raises
        ------
        AlreadySummed
            When it was over others before, or of other trials, or a later round was: two sums of one round that differ
            by a site, or a person, tell what that one sent. The same sum again, in a round that the server has lost,
            tells nothing new.
        """
        path, now = self.folder / SUMMED, {"round": round_number, "nodes": sorted(nodes), "trials": trials}
        if path.exists():
            before = json.loads(path.read_text())
            if before["round"] > round_number or (before["round"] == round_number and before != now):
                raise AlreadySummed(
                    f"round {before['round']} was summed already, over other sites or trials; begin a new run with"
                    " another training.seed"
                )
        with replaced(path) as out:
            out.write(json.dumps(now).encode())

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

    def _kept(self, up_to: int) -> list[tuple[int, Path]]:
        """List rounds not past `up_to` with their files, the newest first; one that cannot be read counts as newest."""
        rounds = []
        for path, other in ((self.folder / NEWEST, self.folder / BEFORE), (self.folder / BEFORE, None)):
            try:
                number = self._round(path)
            except DamagedError:
                if other is None or not other.exists():
                    raise
                number = up_to
            if number is not None and number <= up_to:
                rounds.append((number, path))
        return rounds

    def _is_intact(self, path: Path) -> bool:
        try:
            read_tensors(path)
        except DamagedError:
            return False
        return True

    def _round(self, path: Path) -> int | None:
        if not path.exists():
            return None
        _, metadata = read_tensors(path, metadata_only=True)
        if metadata.get("run") != self.run:
            raise InputError(f"{path}: private layers of another run ({metadata.get('run')}); move them away")
        return int(metadata["round"])


def check_finite(layers: Mapping[str, "Tensor"]) -> None:
    """Raise InputError when training has left a value that is not finite: it would spoil every round after."""
    for name, values in layers.items():
        if not values.isfinite().all():
            raise InputError(f"training gave a value that is not finite in {name}; nothing of it is kept: lower lr")


def fail(folder: Path, reason: str) -> None:
    """Write ``failure.txt`` in a folder, if the disk lets us."""
    with contextlib.suppress(OSError), replaced(folder / FAILURE) as out:
        out.write(reason.encode())


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, in one step; with their digest, so that a flipped bit is noticed."""
    from safetensors.torch import save

    kept = {name: value.contiguous() for name, value in tensors.items()}
    content = save(kept, {**metadata, DIGEST: _digest(kept)})
    with replaced(path) as out:
        out.write(content)


def read_tensors(path: Path, metadata_only: bool = False) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Read safetensors; raise DamagedError that names the file when it is missing, cut or changed."""
    try:
        with safe_open(path, framework="pt") as file:
            names = [] if metadata_only else file.keys()
            tensors, metadata = {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{path}: cannot be read as safetensors: {error}") from error
    if not metadata_only and metadata.get(DIGEST, _digest(tensors)) != _digest(tensors):
        raise DamagedError(f"{path}: damaged, its values are not those that were written; restore it")
    return tensors, metadata


def _digest(tensors: Mapping[str, "Tensor"]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
