"""`mfscsn doctor` and `mfscsn new`: before the first run."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def doctor(
    federation: Annotated[
        Path | None, typer.Argument(help="Whose recordings are looked for.", metavar="[FED.toml]", show_default=False)
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where bids: folders lie, in place of the file's data_root.")
    ] = None,
    store: Annotated[Path, typer.Option(help="Folder for prepared trials.")] = Path("prepared"),
    runs: Annotated[Path, typer.Option("--out", help="Folder of the run, or of runs.")] = Path("runs"),
    ports: Annotated[list[int] | None, typer.Option("--port", help="Must be free; a server's is 9092.")] = None,
) -> None:
    """Check this machine before a run, and name what to mend."""
    from experiments.doctor import examine

    good = True
    for finding in examine(federation, data_root, store, runs, ports or []):
        typer.echo(str(finding))
        good = good and finding.good
    if not good:
        raise typer.Exit(1)


@app.command()
def new(
    path: Annotated[Path, typer.Argument(help="The file to write.", metavar="FED.toml", show_default=False)],
    site: Annotated[
        list[str],
        typer.Option(help="A site and its BIDS folder; once for each site.", metavar="NAME=FOLDER", show_default=False),
    ],
) -> None:
    """Look into BIDS folders and write a FED.toml to go on from."""
    from experiments.new import ENOUGH, counted, parse_sites, write_federation

    for folder in write_federation(path, parse_sites(site)):
        typer.echo(
            f"{folder.folder}: {len(folder.subjects)} subjects, {len(folder.channels)} channels, {folder.sfreq:g} Hz;"
            f" tasks {', '.join(folder.tasks)}; targets {', '.join(folder.targets)}"
        )
        calibration, test = folder.split
        typer.echo(
            f"  a target like {folder.looked_at} trains with {counted(calibration)}, is tested on {counted(test)}"
        )
        if min(*calibration.values(), *test.values()) < ENOUGH:
            typer.echo(f"  warning: fewer than {ENOUGH} trials of a task tell little; change calibration or tasks")
    if len(site) == 1:
        typer.echo("one site: nothing is shared with anybody; it compares the site's subjects together with each alone")
    typer.echo(f"federation: {path}\nread it, then: mfscsn simulate {path}")
