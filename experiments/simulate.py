"""Simulate: a whole federation on one machine, through real Flower, from prepared trials to scores."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from data.errors import InputError
from experiments.evaluate import Score, evaluate
from experiments.references import reference_jobs, train_references
from federation.contract import Federation, first_difference
from federation.run_folder import RunFolder
from federation.superlink import SuperLink, superlink

POLL_SECONDS = 0.2
DOUBT_SECONDS = 10.0  # without news, ask Flower whether the run is still alive


@dataclass(frozen=True)
class Progress:
    """What `simulate` tells whoever watches: a stage, how far it is, and the last round's mean loss."""

    stage: str
    done: int
    total: int
    detail: str = ""


def simulate(run: RunFolder, report: Callable[[Progress], None]) -> list[Score]:
    """Take a run, whose sites are prepared, from where it stands to its scores.

    Parameters
    ----------
    run : RunFolder
    report : callable
        Called with a `Progress` at every step.

    Raises
    ------
    InputError
        For what the user can mend.
    RuntimeError
        When the run failed; the message says why and where to look.
    """
    with run.locked("command", wait=15.0):
        train_rounds(run, report)
        train_references(run, reference_jobs(run), lambda done, total: report(Progress("references", done, total)))
        report(Progress("scores", 0, 1))
        scores = evaluate(run)
        report(Progress("scores", 1, 1))
        return scores


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
    """Train the rounds that are left, through Flower; raise RuntimeError when the run fails."""
    rounds, began_at = run.federation.training.rounds, run.last_round()
    if began_at == rounds:
        return
    report(Progress("rounds", began_at, rounds, "starting Flower"))
    with superlink(run.path / "flower.log") as link:
        (run.path / "failure.txt").unlink(missing_ok=True)
        flower_run = link.start_run(
            {"run": str(run.path), "store": str(run.store), "threads": int(run.environment["threads"])},
            {
                "num-supernodes": len(run.federation.site),
                "client-resources-num-cpus": 1,
                "init-args-num-cpus": min(len(run.federation.site), os.cpu_count() or 1),
            },
        )
        follow_rounds(run, link, flower_run, report)


def follow_rounds(run: RunFolder, link: SuperLink, flower_run: str, report: Callable[[Progress], None]) -> None:
    """Watch a run until its last round; raise RuntimeError, which says why, when it ends before."""
    rounds, seen, checked = run.federation.training.rounds, run.last_round(), time.monotonic()
    report(Progress("rounds", seen, rounds))
    while seen < rounds:
        time.sleep(POLL_SECONDS)
        last = run.last_round()
        if last > seen:
            seen, checked = last, time.monotonic()
            report(Progress("rounds", seen, rounds, _round_line(run, seen)))
        elif run.failure() is not None:
            raise _failure(run, link, flower_run)
        elif time.monotonic() - checked > DOUBT_SECONDS:  # it may have ended without a word
            if not link.alive() or link.status(flower_run).startswith("finished"):
                raise _failure(run, link, flower_run)
            checked = time.monotonic()


def _failure(run: RunFolder, link: SuperLink, flower_run: str) -> RuntimeError:
    if link.alive():
        link.save_log(flower_run, run.path / "flower.log")
    reason = run.failure() or "Flower ended without a word"
    return RuntimeError(f"the run failed: {reason}{_site_failure(run)}; all of it: {run.path / 'flower.log'}")


def _round_line(run: RunFolder, number: int) -> str:
    rows = [row for row in run.history() if row["round"] == str(number)]
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    out = [f"{row['site']} {row['status']}" for row in rows if row["status"] != "ok"]
    mean = f"loss {sum(losses) / len(losses):.3f}" if losses else ""
    return "; ".join(part for part in (mean, *out) if part)


def _site_failure(run: RunFolder) -> str:
    """Quote the last failure that a site wrote down: on one machine, it may be shown."""
    for site in run.federation.site:
        reason = run.site(site.name).failure() if site.dataset else None
        if reason:
            return f"; site {site.name!r} says: {' '.join(reason.split())}"
    return ""
