"""Simulate: a whole federation on one machine, through real Flower, from prepared trials to scores."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from data.errors import FailedError, InputError
from data.files import check_free
from experiments.evaluate import Score, evaluate
from experiments.progress import Progress, round_line
from experiments.references import reference_jobs, train_references
from federation.contract import Federation
from federation.local_grid import RUN_ID, LocalGrid
from federation.run_folder import RunFolder, checked_device
from federation.server_app import app
from federation.site_trials import SiteTrials
from federation.tables import first_difference
from mfscsn.device import Device

STATUS_SECONDS = 10.0  # from one question to the next whether Flower's run has ended without a word
ENGINES = ("mfscsn", "flower")


def simulate(run: RunFolder, report: Callable[[Progress], None], engine: str = ENGINES[0]) -> list[Score]:
    """Take a run, whose sites are prepared, from where it stands to its scores.

    Parameters
    ----------
    run : RunFolder
    report : callable
        Called with a `Progress` at every step.
    engine : {"mfscsn", "flower"}
        What hands messages to the sites: processes of this machine, or Flower's simulation engine over Ray, which
        spreads over the cluster that RAY_ADDRESS names. Both give the same layers, bit for bit.

    Raises
    ------
    InputError
        For what the user can mend.
    FailedError
        When the run failed; the message says why and where to look.
    """
    with run.locked("command", wait=15.0):
        (train_through_flower if engine == "flower" else train_rounds)(run, report)
        train_references(run, reference_jobs(run), lambda done, total: report(Progress("references", done, total)))
        report(Progress("scores", 0, 1))
        scores = evaluate(run)
        report(Progress("scores", 1, 1))
        return scores


def new_run(
    federation: Federation,
    out: Path | None,
    store: Path,
    threads: int,
    device: Device,
    prepare: Callable[[Federation, Path], Federation],
) -> RunFolder:
    """Prepare a federation's sites and make a run's folder; input that is refused leaves no folder behind.

    Parameters
    ----------
    federation : Federation
    out : Path, optional
        ``runs/NAME-DATE-TIME`` when left out.
    store : Path
        The folder of stores.
    threads : int
    device : {"cpu", "cuda", "auto"}
        Where rounds are trained.
    prepare : callable
        `experiments.prepare.prepare_sites`, or one that shows how far it is.

    Raises
    ------
    InputError
        Before anything is read where that can be told: a folder that is taken, a privacy budget that is spent.
    """
    from federation.privacy.persons import check_affordable  # OpenDP, which other steps do not need

    path = out if out is not None else Path("runs") / f"{federation.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for site in federation.site:
        check_affordable(site, federation.contract)
    check_free(path)
    checked_device(device, str(path))
    prepared = prepare(federation, store)
    for site in prepared.site:
        SiteTrials(site, prepared.contract, store).check_labelled()
    return RunFolder.create(path, prepared, store, threads, device=device)


def check_resumed(run: RunFolder, federation: Federation, rounds: int | None, seed: int | None) -> None:
    """Check that a run is continued as it was begun; raise InputError that names the first difference.

    Rounds and seed are the run's own where the command does not give them.
    """
    frozen = run.federation
    training = federation.training.model_copy(
        update={
            "rounds": rounds if rounds is not None else frozen.training.rounds,
            "seed": seed if seed is not None else frozen.training.seed,
        }
    )
    given = federation.model_copy(update={"training": training})
    before, now = (f.model_dump(exclude={"data_root"}) for f in (frozen, given))
    for site_before, site_now in zip(before["site"], now["site"], strict=False):
        for dataset_before, dataset_now in zip(site_before["dataset"], site_now["dataset"], strict=False):
            if dataset_now["subjects"] is None:  # all there were: the run has written down which
                dataset_before["subjects"] = None
    change = first_difference(before, now)
    if change:
        raise InputError(f"{run.path}: cannot be resumed with another configuration: {change}; start a new run")


def train_rounds(run: RunFolder, report: Callable[[Progress], None]) -> None:
    """Train the rounds that are left, through Flower's apps; raise FailedError when the run fails."""
    rounds, seen = run.federation.training.rounds, run.last_round()
    if seen == rounds:
        return

    def watch() -> None:
        nonlocal seen
        if (last := run.last_round()) > seen:
            seen = last
            report(Progress("rounds", seen, rounds, round_line(run, seen)))

    report(Progress("rounds", seen, rounds))
    (run.path / "failure.txt").unlink(missing_ok=True)
    threads, log = int(run.environment["threads"]), run.path / "flower.log"
    config: dict[str, Any] = {"run": str(run.path), "store": str(run.store), "threads": threads, "nodes": ""}
    grid = LocalGrid(len(run.federation.site), config, threads, log, watch)
    with flower_logs_to(log) as logger, grid:
        try:
            app(grid, Context(RUN_ID, 0, {}, RecordDict(), config))
        except Exception as error:
            logger.exception("the run failed")
            raise FailedError(
                f"the run failed: {run.failure() or error}{_site_failure(run)}; all of it: {log}"
            ) from error
        watch()


def train_through_flower(run: RunFolder, report: Callable[[Progress], None]) -> None:
    """Train the rounds that are left as `flwr run .` does, with a SuperLink of our own; raise FailedError as above."""
    from federation.deployment.superlink import superlink

    rounds, seen, n_sites = run.federation.training.rounds, run.last_round(), len(run.federation.site)
    if seen == rounds:
        return
    resources: dict[str, int] = {"num-supernodes": n_sites, "client-resources-num-cpus": 1}
    if "RAY_ADDRESS" not in os.environ:  # a cluster knows its processors
        resources["init-args-num-cpus"] = min(n_sites, os.cpu_count() or 1)
    (run.path / "failure.txt").unlink(missing_ok=True)
    report(Progress("rounds", seen, rounds))
    log = run.path / "flower.log"
    with superlink(log) as link:
        told = {"run": str(run.path), "store": str(run.store), "threads": int(run.environment["threads"])}
        started, asked = link.start_run(told, resources), time.monotonic()
        while seen < rounds:
            time.sleep(0.05)
            ended = ""
            if time.monotonic() > asked + STATUS_SECONDS:
                ended, asked = link.status(started), time.monotonic()
            if (last := run.last_round()) > seen:
                seen = last
                report(Progress("rounds", seen, rounds, round_line(run, seen)))
            elif (failure := run.failure()) is not None or ended.startswith("finished"):
                link.save_log(started, log)
                raise FailedError(f"Flower's engine ended: {failure or ended}{_site_failure(run)}; all of it: {log}")


@contextmanager
def flower_logs_to(path: Path) -> Iterator[logging.Logger]:
    """Have Flower add to a file what it would print, as long as the block lasts."""
    logger, out = logging.getLogger("flwr"), logging.FileHandler(path)
    out.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [out], False  # libraries of EEG print what reaches the root
    try:
        yield logger
    finally:
        logger.handlers, logger.propagate = before
        out.close()


def _site_failure(run: RunFolder) -> str:
    """Quote the last failure that a site wrote down: on one machine, it may be shown."""
    for site in run.federation.site:
        reason = run.site(site.name).failure() if site.dataset else None
        if reason:
            return f"; site {site.name!r} says: {' '.join(reason.split())}"
    return ""
