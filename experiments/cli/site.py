"""`mfscsn site ...`: what the engineer of a site types."""

import os
import secrets
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.errors import InputError
from data.files import replaced, sha256
from experiments.cli.say import say

if TYPE_CHECKING:
    from federation.run_folder import RunFolder
    from federation.site_home import SiteHome

app = typer.Typer(no_args_is_help=True, suggest_commands=False, help="Take part in a federation (docs/deployment.md).")


@app.callback()
def _for_its_owner_alone(context: typer.Context) -> None:
    before = os.umask(0o077)  # whatever a site's files are, nobody else reads them
    context.call_on_close(lambda: os.umask(before))


Home = Annotated[Path, typer.Argument(help="The site's folder.", metavar="DIR", show_default=False)]
SITE_FILE = """\
# What this site trains on, and what may leave it. `mfscsn site check` reads this file and says what it means.
# data_root = "."  # where bids: folders lie, relative to this file
# threads = 1      # processor threads for training
# device = "cpu"   # "cuda": a graphics card; "auto": one where there is one

[[site]]
name = "{name}"                              # as the coordinator registers it
metrics = ["loss", "accuracy", "seconds"]    # of training, may leave in every round; [] for none
scores = []                                  # ["balanced_accuracy"]: the mean over targets may leave after the last
secret_seed = {seed}
#   private layers begin from it: keep it here, for who knows it knows the extractor as it began
# privacy = {{ epsilon = 8.0, n_trials = 200 }} # differential privacy of one trial, over all runs; docs/privacy.md

# One for each data set; with another headset or other tasks, add another [[site.dataset]].
[[site.dataset]]
source = "bids:/path/to/recordings"          # a BIDS folder
tasks = ["left_hand", "right_hand"]          # annotations to use; {{ T1 = "left_hand" }} renames them
# subjects = ["01", "02"]                    # all, when left out
# targets = ["02"]                           # subjects to be scored: only their calibration trains
# calibration = {{ first = 40 }}              # or {{ runs = ["1"] }}; the rest is their test
# channels = ["C3", "Cz", "C4"]              # all EEG channels, when left out
"""


@app.command(epilog="Example: mfscsn site init CLINIC --invitation HUB.toml --name clinic")
def init(
    home: Home,
    invitation: Annotated[Path, typer.Option(help="The file that the coordinator sent.", show_default=False)],
    name: Annotated[str, typer.Option(help="This site's name: letters, digits, - and _.", show_default=False)],
) -> None:
    """Make a site's folder: its key pair, and site.toml to fill in."""
    from data.files import check_free
    from federation.contract import Site, unbuilt
    from federation.deployment.keys import make_site_key
    from federation.invitation import read_invitation
    from federation.tables import parse_table

    chosen = parse_table(Site, {"name": name}, "--name").name
    with unbuilt():
        read = read_invitation(invitation)
    check_free(home, "name another folder")
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    make_site_key(chosen, home / "site.key", home / f"{chosen}.pub")
    with replaced(home / "site.toml") as out:
        out.write(SITE_FILE.format(name=chosen, seed=secrets.randbits(62)).encode())
    with replaced(home / "invitation.toml") as out:
        out.write(invitation.read_bytes())
    say(
        f"federation {read.name!r} at {read.server}\n"
        f"  the invitation's SHA-256, to compare with the coordinator by telephone: {sha256(invitation)}\n"
        f"1. send to the coordinator: {_shown(home / f'{chosen}.pub')}\n"
        f"2. fill in: {_shown(home / 'site.toml')}\n"
        f"3. then: mfscsn site check {_shown(home)}"
    )


@app.command(epilog="Example: mfscsn site check CLINIC")
def check(
    home: Home,
    offline: Annotated[bool, typer.Option("--offline", help="Do not connect.")] = False,
) -> None:
    """Read the recordings, prepare trials, check code and connection, and say what would leave. It sends nothing."""
    say(f"{_shown(home)}: reads site.toml, invitation.toml and the recordings")
    from data.files import is_locked
    from experiments.cli.show import ProgressLines
    from experiments.prepare import prepare_sites
    from federation.deployment.app_bundle import bundle_hash
    from federation.deployment.keys import check_site_key
    from federation.deployment.launcher import check_connection, sends
    from federation.privacy.persons import check_affordable
    from federation.site_home import SiteHome
    from federation.site_trials import SiteTrials

    opened = SiteHome(home)
    check_site_key(opened)
    site = opened.site
    check_affordable(site, opened.federation.contract)
    with ProgressLines() as show:
        try:
            prepare_sites(opened.federation, opened.store, show.prepared)
        except InputError as error:
            raise InputError(str(error).replace("give --data-root", "give data_root in site.toml")) from error
    n_trials = SiteTrials(site, opened.federation.contract, opened.store).n_training()
    say(f"recordings: {n_trials} trials of {len(site.dataset)} data set(s) would train")
    say(f"contract: {opened.federation.name!r} of the invitation; {_contract(opened)}")
    approved = bundle_hash()
    if approved != opened.invitation.app:
        raise InputError(
            f"site {site.name!r}: the server asks to run app bundle {opened.invitation.app}, but the mfscsn installed"
            f" here makes {approved}: install the coordinator's version, or ask for a new invitation"
        )
    say(f"code: the server asks to run what is installed here (app bundle {approved}); any other is refused")
    if is_locked(opened.path, "site"):
        say("connection: not tried, because `mfscsn site run` is at work here and holds it")
    elif not offline:
        with _locked(opened):
            check_connection(opened)
        say(f"connection: {opened.invitation.server} shows the right certificate and knows this site's key")
    say("what leaves this site when it runs:")
    for line in sends(opened):
        say(f"  - {line}")
    say(f"all is well; take part with: mfscsn site run {_shown(opened.path)}")


@app.command(epilog="Example: mfscsn site run CLINIC")
def run(home: Home) -> None:
    """Take part until ended: wait for the server's messages, train, send the common layers."""
    from federation.events import event

    event("starting: reads the site's files, imports what training needs")
    from federation.deployment.keys import check_site_key
    from federation.deployment.launcher import run_site
    from federation.site_trials import SiteTrials

    opened = _opened(home)  # a process for messages builds the network, and says where it cannot be built
    check_site_key(opened)
    try:
        SiteTrials(opened.site, opened.federation.contract, opened.store).check()
    except InputError as error:
        words = str(error).replace("; run `mfscsn prepare`", "")
        raise InputError(f"{words}; fill in site.toml, then `mfscsn site check {_shown(opened.path)}`") from error
    with _locked(opened):
        run_site(opened, event)


@app.command(epilog="Example: mfscsn site evaluate CLINIC")
def evaluate(
    home: Home,
    run_name: Annotated[
        str | None, typer.Option("--run", help="Of a run in DIR/runs; the newest when left out.", metavar="NAME")
    ] = None,
) -> None:
    """Score a run's last layers on this site's own test trials, beside the site on its own. Nothing leaves."""
    from experiments.cli.show import ProgressLines, harm_lines, score_table
    from experiments.evaluate import evaluate as score_run
    from experiments.progress import Progress
    from experiments.references import reference_jobs, train_references
    from experiments.report.run import report
    from federation.site_home import SiteHome

    opened = _run(SiteHome(home), run_name)
    with ProgressLines() as show:
        train_references(
            opened, reference_jobs(opened), lambda done, total: show.progress(Progress("references", done, total))
        )
    score_table(score_run(opened))
    harm_lines(opened)
    say(f"scores: {_shown(opened.path / 'scores.csv')}\nreport: {_shown(report(opened))}")


@app.command()
def metrics(home: Home) -> None:
    """Print what this site's own monitor may read, in Prometheus's format: runs, rounds, epsilon."""
    from federation.deployment.metrics import site_metrics

    say(site_metrics(_opened(home)).decode(), end="")


@app.command("new-key")
def new_key(home: Home) -> None:
    """Make another key pair, in place of the one that was lost, removed or read by others."""
    from federation.deployment.keys import make_site_key

    opened = _opened(home)
    with _locked(opened):
        opened.key.unlink(missing_ok=True)
        make_site_key(opened.site.name, opened.key, opened.public_key)
    say(f"send to the coordinator, to be registered in place of the old one: {_shown(opened.public_key)}")


@app.command()
def forget(
    home: Home,
    runs: Annotated[bool, typer.Option("--runs", help="Remove all runs: private layers, scores, logs.")] = False,
    trials: Annotated[bool, typer.Option("--trials", help="Remove the prepared trials.")] = False,
    key: Annotated[bool, typer.Option("--key", help="Remove the key: this site can then no longer join.")] = False,
    person: Annotated[
        str | None, typer.Option(help="Use a subject no longer, and remove the sums it is in.", metavar="NAME")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Of --person: whose data set, where several have such a subject.", metavar="NAME")
    ] = None,
) -> None:
    """Show what this folder keeps, and remove what is asked for."""
    opened = _opened(home)
    if person is not None:
        with _locked(opened):
            of, removed = opened.forget_person(person, data)
        say(
            f"{_shown(opened.path / 'site.toml')}: data set {of!r} is now used without {person!r}; prepared trials and"
            f" the sums of {len(removed)} run(s) are removed"
        )
        say(
            "ask the coordinator for a fresh sum: `mfscsn server train`; it removes the old ones at all sites. Layers"
            " of runs in rounds still hold what they learned of this person; recordings, backups and exports are not"
            " touched"
        )
        return
    kept = {
        "runs": (runs, [opened.path / "runs"], "private layers, optimiser, scores and logs of every run"),
        "trials": (trials, [opened.store], "prepared trials, made from the recordings"),
        "key": (key, [opened.key, opened.public_key], "this site's key"),
    }
    removes = runs or trials or key
    with _locked(opened) if removes else nullcontext():
        for option, (chosen, paths, words) in kept.items():
            there = [path for path in paths if path.exists()]
            size = sum(_size(path) for path in there) / 1e6
            if chosen:
                for path in there:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            say(f"{'removed' if chosen else f'kept (--{option} removes)'}: {words}, {size:.1f} MB")
    say(
        "The recordings are not touched, and audit.jsonl keeps when what has left. The server keeps the common layers"
        " of the rounds that this site took part in: they are averages over sites, and nothing can be taken out of them"
        f" again. To leave for good, ask the coordinator for `mfscsn server remove-site SERVER {opened.site.name}`."
    )


def _opened(home: Path) -> "SiteHome":
    """Open a site's folder for a command that trains nothing."""
    from federation.contract import unbuilt
    from federation.site_home import SiteHome

    with unbuilt():
        return SiteHome(home)


def _run(home: "SiteHome", name: str | None) -> "RunFolder":
    from federation.run_folder import run_in

    run = run_in(home.path / "runs", name)
    if run.last_round() == 0:
        raise InputError(
            f"{run.path}: the last common layers have not arrived: the run goes on, or this site was not connected at"
            " its end; then ask the coordinator for `mfscsn server train --resume`"
        )
    return run


def _contract(home: "SiteHome") -> str:
    contract = home.federation.contract
    return (
        f"{contract.sfreq:g} Hz, {contract.band[0]:g} to {contract.band[1]:g} Hz,"
        f" {contract.window[0]:g} to {contract.window[1]:g} s after the cue, {contract.alignment} alignment"
    )


def _locked(home: "SiteHome") -> AbstractContextManager[None]:
    from data.files import locked

    return locked(home.path, "site", f"{home.path}: `mfscsn site run` is at work here; end it first")


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _shown(path: Path) -> str:
    return os.path.relpath(path)
