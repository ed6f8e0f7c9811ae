"""Deploy: start and follow a run of a server whose sites are elsewhere."""

import time
from collections.abc import Callable
from importlib.metadata import version

from data.errors import FailedError, InputError
from data.files import replaced
from experiments.progress import Progress, round_line
from federation.contract import check_min_sites
from federation.deployment.server_home import ServerHome
from federation.deployment.superlink import SuperLink
from federation.run_folder import RunFolder, run_in
from federation.tables import first_difference

POLL_SECONDS = 0.5
DOUBT_SECONDS = 10.0  # without news, ask Flower whether the run is still alive
STOPPED = "finished:stopped"  # Flower's status of a run that somebody ended
STARTED, START_SECONDS = "flower-run.txt", 20.0


def running_server(home: ServerHome) -> SuperLink:
    """Return the SuperLink of a running server; raise InputError when it does not run."""
    port = home.command_port()
    link = SuperLink(home.flower, port) if port is not None else None
    if link is None or not link.alive():
        raise InputError(f"{home.path}: the server does not run; start it with `mfscsn server run {home.path}`")
    return link


def begin(home: ServerHome, rounds: int | None, wait: float, report: Callable[[Progress], None]) -> RunFolder:
    """Begin a run with the registered sites; raise InputError when too few are registered, or connected in time."""
    federation = home.federation_of_sites(rounds)
    link = running_server(home)
    for run in home.runs():
        if _goes_on(run, link):
            raise InputError(
                f"{run.path}: this run goes on; follow it with --resume, or end it with `mfscsn server stop`"
            )
    check_min_sites(federation, str(home.path / "federation.toml"))
    wait_for_sites(home, federation.min_sites, wait, report)
    path = home.path / "runs" / f"{federation.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    # No trials are prepared at a server; whoever looks for them finds nothing
    run = RunFolder.create(path, federation, home.path / "prepared", threads=1)
    home.record(
        "run", run=run.path.name, id=run.run_id, contract=federation.digest(), rounds=federation.training.rounds,
        sites=list(home.sites()),
    )  # fmt: skip
    return run


def reopen(home: ServerHome, wait: float, report: Callable[[Progress], None]) -> RunFolder:
    """Open the newest run to go on with, as `begin`; raise InputError too when the contract has changed since."""
    runs = home.runs()
    if not runs:
        raise InputError(f"{home.path}: no run to resume; begin one with `mfscsn server train {home.path}`")
    run, now = runs[-1], home.federation_of_sites()
    for path, why in home.damaged_runs().items():
        if path.name > run.path.name:  # names end with the time
            raise InputError(f"{why}; to go on with {run.path.name} instead, move {path.name} away")
    if (by := run.environment["packages"].get("mfscsn")) != (ours := version("mfscsn")):
        raise InputError(
            f"{run.path}: was begun with mfscsn {by}, this is {ours}; end it with {by}, or begin a new run"
        )
    same = {"contract", "training"}
    before, after = (f.model_dump(include=same, exclude={"training": {"rounds"}}) for f in (run.federation, now))
    change = first_difference(before, after)
    if change:
        raise InputError(
            f"{run.path}: cannot be resumed with another contract: {change}; undo that, or begin a new run"
        )
    if not _goes_on(run, running_server(home)):
        wait_for_sites(home, now.min_sites, wait, report)
    return run


def rollback(home: ServerHome, number: int, name: str | None = None) -> RunFolder:
    """Begin another run from an earlier round of one, the newest when none is named; that one stays as it is.

    Sites go on in a run and never back, so it is a run of its own, in which their private layers begin anew.

    Raises
    ------
    InputError
        When there is no such run or round, or a run is going on.
    """
    run = run_in(home.path / "runs", name)
    if run.is_locked("server"):
        raise InputError(f"{run.path}: this run goes on; end it with `mfscsn server stop` first")
    if number not in run.kept_rounds():
        raise InputError(f"{run.path}: no round {number}; there are 1 to {run.last_round()}")
    path = home.path / "runs" / f"{run.federation.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    began = RunFolder.create(path, run.federation, run.store, threads=1)
    began.begin_from(run, number)
    home.record("rollback", run=began.path.name, of=run.path.name, round=number)
    return began


def train_deployed(home: ServerHome, run: RunFolder, report: Callable[[Progress], None]) -> None:
    """Start a run, or find it running, and follow it to its end.

    Parameters
    ----------
    home : ServerHome
        Of a server that runs.
    run : RunFolder
    report : callable
        Called with a `Progress` at every step.

    Raises
    ------
    InputError
        When the server does not run.
    FailedError
        When the run failed; the message says why and where to look.
    """
    link, started = running_server(home), run.path / STARTED
    if _goes_on(run, link):  # an earlier command was cut off from it
        flower_run = started.read_text().strip()
    else:
        (run.path / "failure.txt").unlink(missing_ok=True)
        values = {"run": str(run.path), "store": str(run.store), "nodes": str(home.nodes)}
        flower_run = link.start_run(values)
        with replaced(started) as out:
            out.write(flower_run.encode())
    follow_rounds(run, link, flower_run, report)
    report(Progress("last layers to sites", 0, 1))
    while True:
        if not link.alive():
            raise FailedError("the server ended before it had sent the last layers; start it, and --resume")
        if link.status(flower_run).startswith("finished"):
            break
        time.sleep(POLL_SECONDS)
    if run.failure() is not None:
        raise FailedError(f"the last layers did not reach the sites: {run.failure()}; --resume tries again")
    report(Progress("last layers to sites", 1, 1))


def follow_rounds(run: RunFolder, link: SuperLink, flower_run: str, report: Callable[[Progress], None]) -> None:
    """Watch a run until its last round; raise FailedError, which says why, when it ends before."""
    rounds, seen, checked = run.federation.training.rounds, run.last_round(), time.monotonic()
    report(Progress("rounds", seen, rounds))
    while seen < rounds:
        time.sleep(POLL_SECONDS)
        last = run.last_round()
        if last > seen:
            seen, checked = last, time.monotonic()
            report(Progress("rounds", seen, rounds, round_line(run, seen)))
        elif run.failure() is not None:
            raise _failure(run, link, flower_run)
        elif time.monotonic() - checked > DOUBT_SECONDS:  # it may have ended without a word
            if not link.alive() or link.status(flower_run).startswith("finished"):
                raise _failure(run, link, flower_run)
            checked = time.monotonic()


def _failure(run: RunFolder, link: SuperLink, flower_run: str) -> FailedError:
    if not link.alive() and run.failure() is None:
        return FailedError(
            f"the server ended after round {run.last_round()}; start it again with `mfscsn server run`, then go on with"
            " `mfscsn server train --resume`"
        )
    if link.alive():
        link.save_log(flower_run, run.path / "flower.log")
    if run.failure() is None and link.alive() and link.status(flower_run) == STOPPED:
        return FailedError(
            f"ended by `mfscsn server stop` after round {run.last_round()} of {run.federation.training.rounds}; go on"
            " with `mfscsn server train --resume`"
        )
    reason = run.failure() or "Flower ended without a word"
    return FailedError(f"the run failed: {reason}; all of it: {run.path / 'flower.log'}")


def stop(home: ServerHome) -> RunFolder:
    """End the newest run where it stands; it can be resumed."""
    link, runs = running_server(home), home.runs()
    if not runs or not _goes_on(runs[-1], link):
        raise InputError(f"{home.path}: no run is going on")
    link.stop_run((runs[-1].path / STARTED).read_text().strip())
    return runs[-1]


def status(home: ServerHome) -> dict[str, object]:
    """Describe how the server, its sites and its newest run stand, for a person or a monitor."""
    port = home.command_port()
    link = SuperLink(home.flower, port) if port is not None else None
    alive = link is not None and link.alive()
    nodes, runs = home.connected(), home.runs()
    return {
        "server": "running" if alive else "not running",
        "sites": {
            name: {"connected": nodes[name].online, "since": nodes[name].since, "heard": nodes[name].heard or None}
            if alive and name in nodes
            else {"connected": False, "since": None, "heard": None}
            for name in home.sites()
        },
        "run": _run_status(runs[-1], link if alive else None) if runs else None,
        "damaged_runs": list(home.damaged_runs().values()),
    }


def _goes_on(run: RunFolder, link: SuperLink) -> bool:
    """Return whether a run is at work: Flower takes it for one, and its process holds the folder, or soon will."""
    started = run.path / STARTED
    if not started.exists() or link.status(started.read_text().strip()) not in ("pending", "starting", "running"):
        return False
    end = started.stat().st_mtime + START_SECONDS
    while not run.is_locked("server"):
        if time.time() > end:  # of a server that was killed
            return False
        time.sleep(POLL_SECONDS)
    return True


def _run_status(run: RunFolder, link: SuperLink | None) -> dict[str, object]:
    last, history = run.last_round(), run.history()
    going = link is not None and _goes_on(run, link)
    return {
        "folder": str(run.path),
        "state": "going on" if going else "failed" if run.failure() else "ended" if _is_whole(run) else "stopped",
        "round": last,
        "rounds": run.federation.training.rounds,
        "failure": run.failure(),
        "last_round": {row["site"]: row["status"] for row in history if row["round"] == str(last)},
    }


def _is_whole(run: RunFolder) -> bool:
    return run.last_round() == run.federation.training.rounds


def wait_for_sites(home: ServerHome, fewest: int, wait: float, report: Callable[[Progress], None]) -> None:
    """Wait until all registered sites are connected, for so many seconds; then those that are there begin.

    Raises
    ------
    InputError
        When `fewest` are not there by then: who is missing, and since when.
    """
    names, end = list(home.sites()), time.monotonic() + wait
    while True:
        nodes = home.connected()
        missing = [name for name in names if name not in nodes or not nodes[name].online]
        report(
            Progress("sites", len(names) - len(missing), len(names), f"waits for {', '.join(missing)}" * bool(missing))
        )
        if not missing or time.monotonic() > end:
            break
        time.sleep(POLL_SECONDS)
    there = len(names) - len(missing)
    if there < fewest:
        since = {name: f"since {nodes[name].since}" if name in nodes else "not seen yet" for name in missing}
        raise InputError(
            f"{home.path}: {there} of {len(names)} sites are connected after {wait:g} s, {fewest} must be; missing:"
            f" {', '.join(f'{name} ({words})' for name, words in since.items())}; nothing was started"
        )
