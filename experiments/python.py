"""What `import mfscsn` gives besides networks: a federation simulated from Python, and a run opened."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.prepare import prepare_sites
from experiments.progress import Progress
from experiments.report.run import report
from experiments.simulate import new_run
from experiments.simulate import simulate as take_to_scores
from federation.contract import Federation, load_federation, parse_federation, with_root
from federation.run_folder import RunFolder
from mfscsn.device import Device


def simulate(
    federation: str | Path | Mapping[str, Any] | Federation,
    out: str | Path | None = None,
    *,
    rounds: int | None = None,
    seed: int | None = None,
    store: str | Path = "prepared",
    device: Device = "cpu",
    progress: Callable[[Progress], None] = lambda step: None,
) -> RunFolder:
    """Train a federation on this machine, from recordings to scores and a report: `mfscsn simulate`.

    Sites train in processes of their own: a script calls this below ``if __name__ == "__main__":``.

    Parameters
    ----------
    federation : path, mapping or Federation
        A FED.toml, or what stands in one.
    out : path, optional
        The run's folder; ``runs/NAME-DATE-TIME`` when left out.
    rounds, seed : int, optional
        In place of the federation's.
    store : path
        The folder of prepared trials.
    device : {"cpu", "cuda", "auto"}
        Where rounds are trained.
    progress : callable
        Called with a `experiments.progress.Progress` at every step.

    Returns
    -------
    mfscsn.RunFolder
        Its ``path`` holds ``scores.csv``, ``predictions.csv``, ``history.csv`` and ``report.html``.

    Raises
    ------
    InputError
        For what can be mended; one line.
    FailedError
        When the run failed.
    """
    if isinstance(federation, Mapping):
        document = {"name": "federation", **federation}
        where = Path(str(document.get("data_root", "."))).resolve()
        opened = with_root(parse_federation(document, "simulate"), where)
    else:
        opened = federation if isinstance(federation, Federation) else load_federation(Path(federation))
    changes = {key: value for key, value in (("rounds", rounds), ("seed", seed)) if value is not None}
    opened = opened.model_copy(update={"training": opened.training.model_copy(update=changes)})
    run = new_run(opened, None if out is None else Path(out), Path(store), 1, device, prepare_sites)
    take_to_scores(run, progress)
    report(run)
    return run


def load_run(path: str | Path) -> RunFolder:
    """Open a run's folder; raise InputError when there is none."""
    return RunFolder(Path(path))
