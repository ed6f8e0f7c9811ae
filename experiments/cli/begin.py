"""`mfscsn doctor` and `mfscsn new`: before the first run."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import START, Pattern
from experiments.cli.say import say

app = typer.Typer()
FEW_TARGETS = 6  # below which Wilcoxon's test can show nothing


@app.command(rich_help_panel=START, epilog="Example: mfscsn doctor fed.toml")
def doctor(
    federation: Annotated[
        Path | None, typer.Argument(help="Whose recordings are looked for.", metavar="[FED.toml]", show_default=False)
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where recordings lie, in place of the file's data_root.")
    ] = None,
    store: Annotated[Path, typer.Option(help="Folder for prepared trials.")] = Path("prepared"),
    runs: Annotated[Path, typer.Option("--out", help="Folder of the run, or of runs.")] = Path("runs"),
    ports: Annotated[list[int] | None, typer.Option("--port", help="Must be free; a server's is 9092.")] = None,
) -> None:
    """Check this machine before a run, and name what to mend."""
    from experiments.doctor import examine

    good = True
    for finding in examine(federation, data_root, store, runs, ports or []):
        say(str(finding))
        good = good and finding.good
    if not good:
        raise typer.Exit(1)


@app.command(
    rich_help_panel=START,
    epilog="Example: mfscsn new fed.toml --site clinic=clinic --site lab=lab.npz",
)
def new(
    path: Annotated[Path, typer.Argument(help="The file to write.", metavar="FED.toml", show_default=False)],
    site: Annotated[
        list[str],
        typer.Option(
            help="A site and its recordings: a folder, trials as .npz, or moabb:CLASS; once for each site.",
            metavar="NAME=FOLDER",
            show_default=False,
        ),
    ],
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            help="Where subject and run stand in files' names, such as S{subject}R{run}; for one site NAME=PATTERN.",
            metavar="PATTERN",
        ),
    ] = None,
) -> None:
    """Look into recordings and write a FED.toml to go on from."""
    from experiments.new import ENOUGH, counted, parse_patterns, parse_sites, write_federation

    sites = parse_sites(site)

    def tell(one: str) -> None:
        say(f"looks into {one}")

    looked = write_federation(path, sites, parse_patterns(pattern or [], sites), tell)
    for found in looked:
        say(
            f"{found.source.partition(':')[2]}: {len(found.subjects)} subjects, {len(found.channels)} channels,"
            f" {found.sfreq:g} Hz; tasks {', '.join(found.tasks)}; targets {', '.join(found.targets)}"
        )
        calibration, test = found.split
        say(f"  a target like {found.looked_at} trains with {counted(calibration)}, is tested on {counted(test)}")
        if len(found.targets) < FEW_TARGETS:
            n = len(found.targets)
            say(f"  warning: {n} target(s): of fewer than {FEW_TARGETS} no test can tell a gain from chance")
        if min(*calibration.values(), *test.values()) < ENOUGH:
            say(f"  warning: fewer than {ENOUGH} trials of a task tell little; change calibration or tasks")
    if len(site) == 1:
        say("one site: nothing is shared with anybody; it compares the site's subjects together with each alone")
    say(f"federation: {path}\nread it, then: mfscsn simulate {path}")


@app.command(rich_help_panel=START, epilog='Example: mfscsn to-bids recordings BIDS --pattern "S{subject}R{run}"')
def to_bids(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of files, or a source such as moabb:CLASS.", metavar="SOURCE", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The new folder.", metavar="FOLDER", show_default=False)],
    task: Annotated[str, typer.Option(help="What the task of the files will be called.")] = "imagery",
    pattern: Pattern = None,
) -> None:
    """Write recordings as BIDS."""
    from data.sources import open_source
    from data.to_bids import to_bids as write
    from experiments.new import source_of

    source = open_source(source_of(data), {"pattern": pattern} if pattern is not None else {})
    write(source, source.subjects(), out, task, lambda subject: say(f"subject {subject} written"))
    say(f"BIDS: {out}\nnow: mfscsn new FED.toml --site NAME={out}")
