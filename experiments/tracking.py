"""Hand a run's rounds and scores to TensorBoard or MLflow, where somebody already watches experiments there."""

import os
import time
from pathlib import Path
from typing import Protocol

import pandas as pd

from data.errors import InputError
from federation.run_folder import RunFolder
from federation.tables import flat_keys

KINDS = ("tensorboard", "mlflow")
MEASURED = ("loss", "accuracy", "held_out", "distance")
LOOK_SECONDS = 5.0
TOLD = {"contract": True, "training": True}  # nothing of sites: sources are folders, and subjects are people


class Tracker(Protocol):
    """What takes numbers."""

    def number(self, name: str, value: float, step: int) -> None:
        """Take a number of a round."""

    def setting(self, name: str, value: str) -> None:
        """Take what the run was begun with."""

    def close(self) -> None:
        """Write what is not written yet."""


class TensorBoard:
    """Event files in a folder of the run's name; `tensorboard --logdir FOLDER` shows them."""

    def __init__(self, folder: str, name: str):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(folder) / name))

    def number(self, name: str, value: float, step: int) -> None:
        """As of `Tracker`."""
        self._writer.add_scalar(name, value, step)

    def setting(self, name: str, value: str) -> None:
        """As of `Tracker`."""
        self._writer.add_text(name, value)

    def close(self) -> None:
        """As of `Tracker`."""
        self._writer.close()


class MLflow:
    """A run of that name in the experiment "mfscsn" of a tracking store: a folder, an sqlite file or a server."""

    def __init__(self, uri: str, name: str):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it asks home by itself
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name("mfscsn")
        of = experiment.experiment_id if experiment else self._client.create_experiment("mfscsn")
        self._run = self._client.create_run(of, run_name=name).info.run_id

    def number(self, name: str, value: float, step: int) -> None:
        """As of `Tracker`."""
        self._client.log_metric(self._run, name, value, step=step)

    def setting(self, name: str, value: str) -> None:
        """As of `Tracker`."""
        self._client.log_param(self._run, name, value)

    def close(self) -> None:
        """As of `Tracker`."""
        self._client.set_terminated(self._run)


def tracker_at(where: str, name: str) -> Tracker:
    """Open ``tensorboard:FOLDER`` or ``mlflow:URI`` for a run of that name; raise InputError when it cannot be."""
    kind, _, place = where.partition(":")
    if kind not in KINDS or not place:
        raise InputError(f"--to {where!r}: expected tensorboard:FOLDER or mlflow:URI")
    try:
        return TensorBoard(place, name) if kind == "tensorboard" else MLflow(place, name)
    except ImportError as error:
        raise InputError(f"{kind} is not installed ({error}): pip install 'mfscsn[tracking]'") from error
    except Exception as error:  # MLflow raises its own, of many kinds
        raise InputError(f"--to {where}: {error}") from error


def track(run: RunFolder, tracker: Tracker, follow: bool = False) -> int:
    """Hand over the settings, each round's numbers by site and, once they are there, the scores.

    Parameters
    ----------
    run : RunFolder
    tracker : Tracker
    follow : bool
        Wait for rounds and scores to come, until the run has its scores or has failed.

    Returns
    -------
    int
        The last round that was handed over.
    """
    for name, value in flat_keys(run.federation.model_dump(mode="json", include=TOLD)).items():
        tracker.setting(name, str(value))
    seen = 0
    while True:
        ended = (run.path / "scores.csv").exists() or run.failure() is not None  # before the rounds are read
        last = run.last_round()
        for row in run.history():
            number = int(row["round"])
            if seen < number <= last:  # a round that is being written is not whole
                for key in MEASURED:
                    if row.get(key):
                        tracker.number(f"{key}/{row['site']}", float(row[key]), number)
        seen = last
        if ended or not follow:
            break
        time.sleep(LOOK_SECONDS)
    scores = run.path / "scores.csv"
    if scores.exists():
        means = pd.read_csv(scores).groupby(["method", "site"])["balanced_accuracy"].mean()
        for (method, site), value in zip(means.index.to_list(), means.to_numpy(), strict=True):
            tracker.number(f"score/{method}/{site}", float(value), seen)
    tracker.close()
    return seen
