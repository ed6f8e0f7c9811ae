"""The run folder: one training from start to end. Simulation and deployment write the same files.

``federation.toml`` (frozen), ``environment.json``, ``history.csv`` (a row per round and site), ``timing.csv``,
``common/round-NNNN.safetensors``, ``sites/<site>/``, and in the end ``scores.csv``.
"""

import csv
import functools
import json
import platform
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError, nearest
from data.files import check_free, is_locked, locked, replaced, write_csv
from federation.contract import ONE_MESSAGE, Federation, Site, read_federation
from federation.privacy.ledger import LEDGER, Ledger
from federation.site import SiteFolder, read_tensors, write_tensors
from federation.site_trials import SiteTrials
from mfscsn.device import Device, found_device

if TYPE_CHECKING:
    from torch import Tensor

    from mfscsn.split import SplitModule

HISTORY = ("round", "site", "status", "n_trials", "loss", "accuracy", "distance", "held_out")
SITE_SCORES = ("site", "status", "n_targets", "balanced_accuracy")
TIMING = ("round", "site", "seconds", "round_seconds")
SECURE = "secure-aggregation.json"
FORGOTTEN = "forgotten.txt"
PACKAGES = ("mfscsn", "torch", "flwr", "numpy", "mne", "mne-bids", "moabb", "safetensors")


class RunFolder:
    """A run's folder, opened.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        When there is no run in the folder.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        if not (self.path / "federation.toml").is_file():
            what = "federation.toml is missing" if self.path.is_dir() else "there is no such folder"
            seeds = sorted(folder.name for folder in self.path.glob("seed-*"))
            if seeds:
                raise InputError(f"{path}: holds the seeds {', '.join(seeds)} of a run; say which: {path / seeds[0]}")
            raise InputError(f"{path}: no run here ({what})")
        self.federation = _frozen(self.path / "federation.toml", (self.path / "federation.toml").stat().st_mtime_ns)
        try:
            self.environment: dict[str, Any] = json.loads((self.path / "environment.json").read_text())
            self.run_id: str = self.environment["run"]
            self.store = Path(self.environment["store"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path}: environment.json is missing or damaged; this run cannot be continued") from error

    @classmethod
    def create(
        cls,
        path: Path,
        federation: Federation,
        store: Path,
        threads: int,
        run_id: str | None = None,
        device: Device = "cpu",
    ) -> "RunFolder":
        """Begin a run in a new or empty folder; raise InputError when something lies there already.

        The identity is made here, unless another machine's run has one.
        """
        check_free(path)
        found = checked_device(device, str(path))
        path.mkdir(parents=True, exist_ok=True)
        environment = {
            "run": run_id or uuid.uuid4().hex,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seed": federation.training.seed,
            "threads": threads,
            "device": found,
            "store": str(store.resolve()),
            "commit": _commit(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
            "machine": {"system": platform.platform(), "processor": platform.machine()},
        }
        with replaced(path / "environment.json") as out:
            out.write(json.dumps(environment, indent=1).encode())
        with replaced(path / "federation.toml") as out:
            out.write(federation.to_toml().encode())
        return cls(path)

    @property
    def device(self) -> str:
        """Where this machine trains the run: "cpu" or "cuda"; InputError when its graphics card is not here."""
        return checked_device(self.environment.get("device", "cpu"), f"{self.path}: environment.json")

    def site(self, name: str) -> SiteFolder:
        """Open a site's folder; in a deployment it lies on the site's own machine."""
        return SiteFolder(self.path / "sites" / name, self.run_id)

    def trials(self, site: Site) -> SiteTrials:
        """Open the prepared trials of a site of this run."""
        return SiteTrials(site, self.federation.contract, self.store)

    def last_round(self) -> int:
        """Number the last completed round; 0 before the first."""
        return max(self.kept_rounds(), default=0)

    def kept_rounds(self) -> set[int]:
        """Number the rounds whose common layers are here."""
        return {int(path.stem.partition("-")[2]) for path in self._common.glob("round-*.safetensors")}

    def load_common(self, round_number: int) -> dict[str, "Tensor"]:
        """Read the common layers as they were averaged in that round."""
        if (self.path / FORGOTTEN).exists():
            raise InputError(f"{self.path}: {(self.path / FORGOTTEN).read_text().strip()}")
        return read_tensors(self._common / f"round-{round_number:04d}.safetensors")[0]

    def load_network(self, name: str) -> "SplitModule":
        """Load a site's network as it stands after the last completed round.

        Returns
        -------
        SplitModule
            A torch module: the last averaged common layers, the site's own last private ones. Its `branches` say
            `n_chans` and `n_outputs` of each data set, its `architecture` says `n_times` and `sfreq`;
            ``network(signals, branch)`` gives logits.

        Raises
        ------
        InputError
            For a site that is not in the run, or that has no private layers of it.
        """
        names = [site.name for site in self.federation.site]
        if name not in names:
            raise InputError(f"{self.path}: no such site {name!r}{nearest(name, names)}; there are {', '.join(names)}")
        trials, last, folder = self.trials(self.federation.site[names.index(name)]), self.last_round(), self.site(name)
        private = folder.load_private(last, trials.digest())
        if private is None:
            raise InputError(f"site {name!r}: no private layers in {folder.folder}; did it ever train?")
        from federation.site_network import site_network

        network = site_network(self.federation, trials)
        network.load_private(private[0])
        network.load_common(self.load_common(last))
        return network

    def load_server_optimiser(self, round_number: int) -> dict[str, "Tensor"]:
        """Read what a strategy with a memory (FedAdam) kept after that round; empty for the others."""
        path = self._common / f"server-optimiser-{round_number:04d}.safetensors"
        return read_tensors(path)[0] if path.exists() else {}

    def finish_round(
        self,
        round_number: int,
        common: Mapping[str, "Tensor"],
        server_optimiser: Mapping[str, "Tensor"],
        history: Sequence[Mapping[str, Any]],
        timing: Sequence[Mapping[str, Any]],
    ) -> None:
        """Keep a completed round. The common layers are written last: they are what makes the round whole."""
        for name, columns, rows in (("history.csv", HISTORY, history), ("timing.csv", TIMING, timing)):
            with (self.path / name).open("a", newline="") as out:
                writer = csv.DictWriter(out, columns, lineterminator="\n")
                if out.tell() == 0:
                    writer.writeheader()
                writer.writerows(rows)
        if server_optimiser:
            about = {"run": self.run_id, "round": str(round_number)}
            write_tensors(self._common / f"server-optimiser-{round_number:04d}.safetensors", server_optimiser, about)
            (self._common / f"server-optimiser-{round_number - 2:04d}.safetensors").unlink(missing_ok=True)
        self.keep_common(round_number, common)

    def begin_from(self, other: "RunFolder", round_number: int) -> None:
        """Take another run's history, layers and server optimiser up to a round, as if they were this run's."""
        kept = [row for row in other.history() if int(row["round"]) <= round_number]
        _write_rows(self.path / "history.csv", HISTORY, kept)
        about = {"run": self.run_id, "round": str(round_number)}
        if optimiser := other.load_server_optimiser(round_number):
            write_tensors(self._common / f"server-optimiser-{round_number:04d}.safetensors", optimiser, about)
        self.keep_common(round_number, other.load_common(round_number))

    def keep_common(self, round_number: int, common: Mapping[str, "Tensor"]) -> None:
        """Keep the common layers as they were averaged in a round; InputError where they were to be forgotten."""
        if (self.path / FORGOTTEN).exists():
            raise InputError(f"{self.path}: {(self.path / FORGOTTEN).read_text().strip()}")
        about = {"run": self.run_id, "round": str(round_number)}
        write_tensors(self._common / f"round-{round_number:04d}.safetensors", common, about)

    def forget_sums(self, why: str) -> bool:
        """Remove the sums of one message, the sites' with them; return whether there were any. Who took part stays."""
        kept = [*self._common.glob("*"), *self.path.glob("sites/*/*.safetensors")]
        if self.federation.contract.strategy != ONE_MESSAGE or not kept:
            return False
        with replaced(self.path / FORGOTTEN) as out:
            out.write(f"{why}\n".encode())
        for path in kept:
            path.unlink()
        return True

    def drop_unfinished(self) -> None:
        """Forget what was written of a round that did not become whole, and the mark of a failure."""
        last = self.last_round()
        for name, columns in (("history.csv", HISTORY), ("timing.csv", TIMING)):
            path = self.path / name
            if path.exists():
                with path.open(newline="") as file:
                    kept = [row for row in csv.DictReader(file) if row["round"].isdigit() and int(row["round"]) <= last]
                _write_rows(path, columns, kept)
        (self.path / "failure.txt").unlink(missing_ok=True)

    def history(self) -> list[dict[str, str]]:
        """Read the rows of ``history.csv`` so far.

        Besides what sites let out: `distance`, how far a site's common layers ended from the average, over its norm.
        `held_out` is of the layers as the round began, so of the average of the round before.
        """
        path = self.path / "history.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if row.get("accuracy") is not None]

    def keep_site_scores(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep by site what was let out after the last round; what a site let out before counts when it now did not."""
        kept = {**rows}
        for row in self.site_scores():
            if row["status"] == "ok" and rows.get(row["site"], {}).get("status") != "ok":
                kept[row["site"]] = row
        _write_rows(
            self.path / "site-scores.csv", SITE_SCORES, [{**row, "site": name} for name, row in sorted(kept.items())]
        )

    def site_scores(self) -> list[dict[str, str]]:
        """Read the rows of ``site-scores.csv``; none before the end of a deployment's run."""
        path = self.path / "site-scores.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def keep_secure_aggregation(self, n_sites: int, error: float) -> None:
        """Write down of a secure round how many sites were summed, and the bound of the quantisation error."""
        with replaced(self.path / SECURE) as out:
            out.write(json.dumps({"sites": n_sites, "error": error}).encode())

    def secure_aggregation(self) -> dict[str, Any] | None:
        """Read what was written down of the last secure round; None when there was none."""
        path = self.path / SECURE
        return dict(json.loads(path.read_text())) if path.exists() else None

    def spent(self) -> dict[str, tuple[float, float, float, str]]:
        """Return what a simulation's sites with privacy have spent: site -> (epsilon, budget, delta, of whom)."""
        of_site = {}
        for site in self.federation.site:
            if site.privacy is not None:
                ledger = Ledger(self.site(site.name).folder / LEDGER, site.privacy)
                unit = ledger.unit.partition(",")[0]
                of_site[site.name] = ledger.epsilon, site.privacy.epsilon, site.privacy.delta, unit
        return of_site

    def fail(self, reason: str) -> None:
        """Write down why the run ended before its last round."""
        with replaced(self.path / "failure.txt") as out:
            out.write(f"{' '.join(reason.split())}\n".encode())

    def failure(self) -> str | None:
        """Return why the run ended early, if it did."""
        path = self.path / "failure.txt"
        return path.read_text().strip() if path.exists() else None

    @contextmanager
    def locked(self, who: str, wait: float = 0.0) -> Iterator[None]:
        """Hold the folder for one writer; raise InputError when another still holds it after `wait` seconds."""
        with locked(self.path, who, f"{self.path}: another process is writing to this run; wait for it", wait):
            yield

    def is_locked(self, who: str) -> bool:
        """Return whether somebody writes to the folder now."""
        return is_locked(self.path, who)

    @property
    def _common(self) -> Path:
        return self.path / "common"


@functools.lru_cache(maxsize=8)
def _frozen(path: Path, changed: int) -> Federation:
    """Read a run's federation once a process: with a hundred sites that takes as long as a site's training."""
    return read_federation(path)


def checked_device(device: Device, where: str) -> str:
    """Return "cpu" or "cuda", as `mfscsn.device.found_device`; InputError that begins with `where` when it is not."""
    try:
        return found_device(device)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def forget_older_sums(run: RunFolder) -> None:
    """Remove the sums of runs before this one: beside each other, two tell who is in one of them alone."""
    if run.federation.contract.strategy == ONE_MESSAGE:
        began = run.environment["started"]
        for other in runs_in(run.path.parent):
            if other.path != run.path and other.environment["started"] <= began:
                other.forget_sums(f"its sums were removed: those of {run.path.name} have taken their place")


def runs_in(folder: Path) -> list[RunFolder]:
    """Open all runs below a folder, the oldest first; one that is damaged is left out: `damaged_runs_in`."""
    runs = [run for run in _opened(folder).values() if isinstance(run, RunFolder)]
    return sorted(runs, key=lambda run: str(run.environment["started"]))


def run_in(folder: Path, name: str | None) -> RunFolder:
    """Open the run of that name below a folder, or the newest; raise InputError that names those that are there."""
    runs = {run.path.name: run for run in runs_in(folder)}
    if not runs:
        raise InputError(f"{folder}: no run yet")
    if name is not None and name not in runs:
        raise InputError(f"{folder}: no run {name!r}{nearest(name, list(runs))}; there are {', '.join(runs)}")
    return runs[name] if name is not None else list(runs.values())[-1]


def damaged_runs_in(folder: Path) -> dict[Path, str]:
    """Return the runs below a folder that cannot be opened, and why."""
    return {path: str(run) for path, run in _opened(folder).items() if isinstance(run, InputError)}


def _opened(folder: Path) -> dict[Path, "RunFolder | InputError"]:
    opened: dict[Path, RunFolder | InputError] = {}
    for file in sorted(folder.glob("*/federation.toml")):
        try:
            opened[file.parent] = RunFolder(file.parent)
        except InputError as error:
            opened[file.parent] = error
    return opened


def run_path(run_config: Mapping[str, Any], run_id: int) -> Path:
    """Return where a Flower app's run folder lies: where its configuration says, or else beside the prepared trials."""
    named, store = str(run_config["run"]), str(run_config["store"])
    if not Path(named or store).is_absolute():
        raise InputError("give the absolute path of the prepared trials: --run-config 'store=\"/...\"'")
    return Path(named) if named else Path(store).parent / "runs" / f"flwr-{run_id}"


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table in one step."""
    write_csv(path, columns, [[row.get(column, "") for column in columns] for row in rows])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Name the checkout's commit, if this code runs from one."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607 where git is, PATH knows
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or None
