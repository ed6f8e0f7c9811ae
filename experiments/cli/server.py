"""`mfscsn server ...`: what the coordinator of a deployment types."""

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.errors import InputError
from data.files import sha256
from experiments.cli.options import takes
from experiments.cli.say import say

if TYPE_CHECKING:
    from federation.deployment.server_home import FederationFile, ServerHome

app = typer.Typer(no_args_is_help=True, suggest_commands=False, help="Coordinate separate sites (docs/deployment.md).")

SOON = 30  # days before a certificate ends, from which on it is said
CHANGED = "the contract or the version changed: send invitation.toml to all sites again"
Home = Annotated[Path, typer.Argument(help="The server's folder.", metavar="DIR", show_default=False)]


@dataclass(frozen=True, kw_only=True)
class Init:
    """What `mfscsn server init` is told."""

    home: Home
    host: Annotated[
        list[str], typer.Option(help="Name or address by which sites reach this server; several may be given.")
    ]
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that sites dial to.")] = 9092
    like: Annotated[
        Path | None,
        typer.Option("--from", help="A FED.toml whose name, contract and training to take.", metavar="FED.toml"),
    ] = None
    sites: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many sites you expect: from four on their updates are masked (secure_aggregation)."
            "  \\[default: as many as FED.toml has]",
        ),
    ] = None
    certificate: Annotated[Path | None, typer.Option(help="A server certificate of your own, PEM.")] = None
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM without a password.")] = None
    authority: Annotated[Path | None, typer.Option(help="The certificate of the authority that signed it.")] = None


@app.command(epilog="Example: mfscsn server init HUB --host hub.example.org")
@takes(Init)
def init(asked: Init) -> None:
    """Make a server's folder: certificates, the contract to edit, and the invitation for sites."""
    from federation.contract import unbuilt
    from federation.deployment.server_home import ServerFile, ServerHome
    from federation.messages import FEWEST

    given = [path for path in (asked.certificate, asked.key, asked.authority) if path is not None]
    if len(given) not in (0, 3):
        raise InputError("a certificate of your own needs --certificate, --key and --authority")
    say(f"makes {_shown(asked.home)}: keys, the contract, and the invitation")
    own = (given[0], given[1], given[2]) if given else None
    listen = "::" if ":" in asked.host[0] else "0.0.0.0"  # noqa: S104 sites come from elsewhere
    server = ServerFile(hosts=asked.host, port=asked.port, listen=listen)
    # Of a FED.toml it is not yet known that its network can be built; of the defaults it is
    with nullcontext() if asked.like is not None else unbuilt():
        federation = _agreed(asked.home, asked.like, asked.sites)
        made = ServerHome.create(asked.home, server, federation, own)
    say(f"server folder: {_shown(made.path)}; what sites agree on: {_shown(made.path / 'federation.toml')}")
    if federation.contract.secure_aggregation:
        say(f"secure_aggregation = true: this server will see the sum of at least {FEWEST} sites, no site's own")
    else:
        say(
            f"secure_aggregation = false: this server will see each site's layers; with {FEWEST} sites or more make it"
            " true before you send the invitation"
        )
    if own is None:
        say(f"keep {_shown(made.path / 'authority.key')} secret: whoever has it can pose as this server")
    _show_invitation(made.path / "invitation.toml")


def _agreed(home: Path, like: Path | None, n_sites: int | None) -> "FederationFile":
    """Return what sites will agree on; updates are masked from four sites on, unless the file says otherwise."""
    from federation.deployment.server_home import FederationFile
    from federation.messages import FEWEST
    from federation.tables import as_name, parse_table, read_toml

    document: dict[str, Any] = {"name": as_name(home.resolve().name)}
    if like is not None:
        document = {"name": as_name(like.stem), **read_toml(like)}
    described = document.pop("site", [])
    document.pop("data_root", None)
    federation = parse_table(FederationFile, document, str(like or home))
    said = "secure_aggregation" in document.get("contract", {})
    if said or (n_sites or len(described)) < FEWEST or not federation.contract.may_be_masked:
        return federation
    masked = federation.contract.model_copy(update={"secure_aggregation": True})
    return federation.model_copy(update={"contract": masked})


@app.command(epilog="Example: mfscsn server run HUB")
def run(home: Home) -> None:
    """Serve until ended: sites connect over TLS with registered keys; `train` starts runs."""
    from federation.events import event

    event("starting: reads the server's files, imports Flower")
    from data.files import locked
    from federation.deployment.keys import days_left
    from federation.deployment.server_home import ServerHome
    from federation.guard import end_guarded, flower_environment, start_guarded

    opened = ServerHome(home)
    with locked(opened.path, "run", f"{opened.path}: this server runs already"):
        if opened.ready():
            event(CHANGED)
        for name in ("server.pem", "authority.pem"):
            if (days := days_left(opened.path / name)) < SOON:
                event(f"{name} ends in {days} days; {'renew it with `mfscsn server renew`' * (name == 'server.pem')}")
        opened.flower.mkdir(exist_ok=True, mode=0o700)
        # What Flower's own processes print besides warnings is of no use here
        environment = flower_environment(opened.flower) | {"FLWR_LOG_LEVEL": "WARNING"}
        command = [sys.executable, "-P", "-m", "federation.deployment.server_link", str(opened.path)]
        guard = start_guarded(command, None, environment, opened.flower)
        try:
            code = guard.wait()
        finally:
            end_guarded(guard)
    raise typer.Exit(code)


@app.command("add-site", epilog="Example: mfscsn server add-site HUB clinic.pub")
def add_site(
    home: Home,
    public_key: Annotated[
        Path, typer.Argument(help="What `mfscsn site init` made at the site.", metavar="SITE.pub", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(help="The site's name, in place of the one in the file.")] = None,
) -> None:
    """Register a site's public key; a running server takes it up at once."""
    opened = _opened(home)
    chosen = opened.add_site(public_key, name)
    say(
        f"site {chosen!r} is registered; {len(opened.sites())} in all;"
        f" to take it off again: mfscsn server remove-site {_shown(opened.path)} {chosen}"
    )


@app.command("remove-site")
def remove_site(
    home: Home, name: Annotated[str, typer.Argument(help="As it was registered.", metavar="NAME", show_default=False)]
) -> None:
    """Take a site off the register; a running server refuses its key at once."""
    gone = _opened(home).remove_site(name)
    say(
        f"site {name!r} is no longer registered; its key is kept, and it may come back with:"
        f" mfscsn server add-site {_shown(home)} {_shown(gone)} --name {name}"
    )


@app.command("forget-site")
def forget_site(
    home: Home, name: Annotated[str, typer.Argument(help="As it was registered.", metavar="NAME", show_default=False)]
) -> None:
    """Remove the sums that a site, taken off before, has a part in; a fresh sum of the others takes their place."""
    opened = _opened(home)
    removed = opened.forget_site(name)
    kept = [run.path.name for run in opened.runs() if run.path.name not in removed]
    say(f"removed the sums of: {', '.join(removed) or 'no run, for none was of one message'}")
    if kept:
        say(f"kept: {', '.join(kept)} (layers that were trained together cannot be taken apart again)")
    say(
        f"now: mfscsn server train {_shown(home)}; when it has ended, every site has removed the old sums too. Backups"
        " of server and sites, and files that were exported, are not touched: remove those that hold the old sums"
    )


@app.command(epilog="Example: mfscsn server train HUB --rounds 100")
def train(
    home: Home,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds, in place of federation.toml's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest run, or follow it again.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for all registered sites to be connected.")] = 60,
) -> None:
    """Start a run with the sites that are connected, and follow it to its end."""
    from experiments.cli.show import ProgressLines, secure_line, site_score_table
    from experiments.deploy import begin, reopen, running_server, train_deployed
    from experiments.report.run import report
    from federation.deployment.server_home import ServerHome

    opened = ServerHome(home)
    if resume and rounds is not None:
        raise InputError("a resumed run has the number of rounds that it began with: leave out --rounds")
    running_server(opened)
    with ProgressLines() as show:
        started = reopen(opened, wait, show.progress) if resume else begin(opened, rounds, wait, show.progress)
    if opened.ready():
        say(CHANGED)
    try:
        with ProgressLines() as show:
            train_deployed(opened, started, show.progress)
    except KeyboardInterrupt:
        say("no longer followed; what has started goes on: `--resume` follows it, `mfscsn server stop` ends it")
        raise typer.Exit(130) from None
    site_score_table(started.site_scores())
    secure_line(started.secure_aggregation())
    say(f"run folder: {_shown(started.path)}\nreport: {_shown(report(started))}")


@app.command()
def rollback(
    home: Home,
    number: Annotated[int, typer.Option("--round", min=1, help="To go on from.", show_default=False)],
    run_name: Annotated[
        str | None, typer.Option("--run", help="Of a run in DIR/runs; the newest when left out.", metavar="NAME")
    ] = None,
) -> None:
    """Begin a new run from an earlier round; the old run stays as it is."""
    from experiments.deploy import rollback as go_back
    from federation.deployment.server_home import ServerHome

    began = go_back(ServerHome(home), number, run_name)
    say(
        f"a new run begins after round {number}: {_shown(began.path)}; sites' private layers begin anew in it"
        f"\ngo on with: mfscsn server train {_shown(home)} --resume"
    )


@app.command()
def renew(home: Home) -> None:
    """Make another certificate for the server, in place of one that ends soon; no site needs a new invitation."""
    days = _opened(home).renew()
    say(f"the new certificate lasts {days} days; a running server shows it when it is started again")


@app.command()
def backup(
    home: Home,
    to: Annotated[Path, typer.Option(help="File to write, .tar.gz.", metavar="FILE", show_default=False)],
) -> None:
    """Write all of the server's folder to one file; the server may run meanwhile. Keep it as secret as the folder."""
    from federation.deployment.backup import back_up

    back_up(_opened(home), to)
    say(f"backup: {_shown(to)}, {to.stat().st_size / 1e6:.1f} MB; it holds private keys")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `backup` wrote.", metavar="FILE", show_default=False)],
    home: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="DIR", show_default=False)],
) -> None:
    """Put a backup back; sites find this server by the same name, port and certificate."""
    from federation.deployment.backup import restore as put_back

    made = put_back(file, home)
    runs = made.runs()
    last = f"; newest run: {_shown(runs[-1].path)}, round {runs[-1].last_round()}" if runs else ""
    say(f"restored: {_shown(made.path)}, {len(made.sites())} sites registered{last}")
    say("a site goes on in a run and never back: where rounds were lost, begin with `mfscsn server rollback` or anew")


@app.command()
def stop(home: Home) -> None:
    """End the run that is going on; `train --resume` takes it up after its last completed round."""
    from experiments.deploy import stop as stop_run

    ended = stop_run(_opened(home))
    say(f"ended after round {ended.last_round()}: {_shown(ended.path)}")


@app.command(epilog="Example: mfscsn server status HUB")
def status(
    home: Home, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a monitor.")] = False
) -> None:
    """Show which sites are connected and where the newest run stands; exit code 1 when the server does not run."""
    from experiments.cli.show import server_status
    from experiments.deploy import status as ask
    from federation.deployment.keys import days_left

    opened = _opened(home)
    answer = ask(opened) | {"certificate_days": days_left(opened.path / "server.pem")}
    if as_json:
        say(json.dumps(answer, indent=1))
    else:
        server_status(answer)
    if answer["server"] != "running":
        raise typer.Exit(1)


def _opened(home: Path) -> "ServerHome":
    """Open a server's folder for a command that trains nothing."""
    from federation.contract import unbuilt
    from federation.deployment.server_home import ServerHome

    with unbuilt():
        return ServerHome(home)


def _show_invitation(path: Path) -> None:
    say(f"send to every site: {_shown(path)}\n  its SHA-256, to compare by telephone: {sha256(path)}")


def _shown(path: Path) -> str:
    return os.path.relpath(path)
