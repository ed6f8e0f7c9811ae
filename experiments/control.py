"""A run's null: each site trained once more beside others whose labels are shuffled, so that they teach nothing.

What a gain over the site alone is worth shows beside it: more passes, more trials, another network come with any
federation, knowledge does not.
"""

from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import replace
from pathlib import Path

import pandas as pd

from data.errors import InputError
from data.files import write_csv
from experiments.benchmark.compare import Paired, paired
from experiments.benchmark.federated import METHODS, run_null
from experiments.evaluate import METHODS as SCORED
from federation.contract import ONE_MESSAGE
from federation.run_folder import RunFolder
from federation.site_scores import balanced_accuracy
from federation.workers import start_workers, stop_workers

NULL, OURS = "null.csv", SCORED[2]
CONTROL = f"{OURS}-null"
PLAIN = ("fedavg", "fedprox", ONE_MESSAGE)  # strategies that a control does as the run did
COLUMNS = ("site", "dataset", "subject", "method", "seed", "balanced_accuracy")


def train_null(run: RunFolder, jobs: int, report: Callable[[int, int], None]) -> Paired:
    """Train the null of every site that has targets, several at once; write ``null.csv`` and compare.

    Parameters
    ----------
    run : RunFolder
        Of several sites, with scores.
    jobs : int
        Processes.
    report : callable
        Told how many of how many sites are done.

    Raises
    ------
    InputError
        For one site, a run without scores, or training that is not the plain one (privacy).
    """
    sites = [site.name for site in run.federation.site if any(dataset.targets for dataset in site.dataset)]
    if len(run.federation.site) < 2 or run.federation.contract.share == "none":
        raise InputError(f"{run.path}: nothing is shared here, so there is nothing that others could teach")
    if any(site.privacy is not None for site in run.federation.site):
        raise InputError(f"{run.path}: sites with privacy would spend their budget on a control; take a run without")
    if (strategy := run.federation.contract.strategy) not in PLAIN:
        raise InputError(
            f"{run.path}: strategy {strategy!r} does more than average, and a control averages plainly; its null is a"
            " run of its own, with the other sites' labels shuffled"
        )
    if not (run.path / "scores.csv").exists():
        raise InputError(f"{run.path}: no scores.csv; finish it with --resume, or `mfscsn evaluate` it")
    report(0, len(sites))
    rows: list[tuple[str, str, str, str, int, float]] = []
    pool = start_workers(min(jobs, len(sites)), int(run.environment["threads"]))
    try:
        found = [pool.submit(_of_site, run.path, site) for site in sites]
        for done, future in enumerate(as_completed(found), 1):
            rows += future.result()
            report(done, len(sites))
    finally:
        stop_workers(pool)
    write_csv(run.path / NULL, COLUMNS, sorted(rows))
    gain = gain_over_null(run)
    assert gain is not None
    return gain


def gain_over_null(run: RunFolder) -> Paired | None:
    """Compare a run's scores with those of its null, over subjects; None where none was trained."""
    path = run.path / NULL
    if not path.exists():
        return None
    text = dict.fromkeys(COLUMNS[:3], str)
    scores = pd.read_csv(run.path / "scores.csv", dtype=text)
    try:
        null = pd.read_csv(path, dtype=text)[list(COLUMNS)]
    except (ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path}: damaged; `mfscsn control {run.path}` writes it again") from error
    return paired(pd.concat([scores[scores["method"] == OURS], null], ignore_index=True), OURS, CONTROL)


def _of_site(path: Path, site: str) -> list[tuple[str, str, str, str, int, float]]:
    run = RunFolder(path)
    seed = run.federation.training.seed
    method = replace(METHODS[CONTROL], proximal_mu=run.federation.settings.proximal_mu)
    return [
        (
            *(row.site, row.dataset, row.subject, CONTROL, seed),
            balanced_accuracy(row.probabilities, row.labels, row.outputs),
        )
        for row in run_null(run.federation, method, run.store, site)
    ]
