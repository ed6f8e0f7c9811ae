"""`mfscsn prepare`, `simulate`, `demo` and `evaluate`: a federation on this machine, from recordings to scores."""

import json
import os
import sys
import time
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from data.errors import InputError
from data.files import check_free
from experiments.cli.options import LOOK, PREPARED, RUN, START, DataRoot, Device, Out, StoreRoot, Threads, takes
from experiments.cli.say import say
from federation.workers import warm_up

if TYPE_CHECKING:
    from federation.contract import Federation
    from federation.run_folder import RunFolder

app = typer.Typer()

FedFile = Annotated[Path, typer.Argument(help="The federation's file.", metavar="FED.toml", show_default=False)]
Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds, in place of the file's.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed, in place of the file's.")]
Seeds = Annotated[
    int | None, typer.Option(min=2, help="Run so many seeds, the first of which is --seed's; one folder holds all.")
]
FEDERATIONS = Path(str(files("experiments") / "federations"))
SEEDS = "seeds.json"  # of a folder that holds runs of several seeds
GRID = ".grid"  # of a folder that holds runs of several settings
DEMO, CONTROL = FEDERATIONS / "demo.toml", FEDERATIONS / "demo-null.toml"
Resume = Annotated[
    Path | None,
    typer.Option(help="Continue the run in this folder, with its own store, threads and device.", metavar="RUN"),
]


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What `mfscsn simulate` is told."""

    federation: Annotated[
        Path | None, typer.Argument(help="The federation's file; not needed to --resume.", metavar="FED.toml")
    ] = None
    rounds: Rounds = None
    seed: Seed = None
    seeds: Seeds = None
    grid: Annotated[
        Path | None, typer.Option(help="Run every combination of the values in this file.", metavar="GRID.toml")
    ] = None
    out: Out = None
    resume: Resume = None
    data_root: DataRoot = None
    store: StoreRoot = PREPARED
    threads: Threads = 1
    device: Device = "cpu"
    engine: Annotated[
        Literal["mfscsn", "flower"],
        typer.Option(help="What carries messages: processes here, or Flower's own engine, which a Ray cluster serves."),
    ] = "mfscsn"

    def load(self) -> "Federation":
        """Read the federation's file, with what the command line says in its place."""
        if self.federation is None:
            raise InputError("give the federation's file, FED.toml, or --resume RUN to go on with a run")
        changes = {key: value for key, value in (("rounds", self.rounds), ("seed", self.seed)) if value is not None}
        federation = load(self.federation, self.data_root)
        return federation.model_copy(update={"training": federation.training.model_copy(update=changes)})


@app.command(rich_help_panel=START, epilog="Example: mfscsn prepare fed.toml")
def prepare(federation: FedFile, data_root: DataRoot = None, store: StoreRoot = PREPARED) -> None:
    """Turn recordings into trials on disk; only what is new."""
    from experiments.remarks import remarks

    for line in remarks(prepare_shown(load(federation, data_root), store), store):
        say(line)
    say(f"prepared trials: {store}")


@app.command(rich_help_panel=RUN, epilog="Example: mfscsn simulate fed.toml --seeds 3 --out RUN")
@takes(Simulation)
def simulate(asked: Simulation) -> None:
    """Train a federation on this machine, to scores and a report."""
    if asked.out is not None and asked.resume is None:
        check_free(asked.out)  # at once, before anything is read or started
    warm_up(asked.threads)
    if asked.grid is not None:
        simulate_grid(asked, asked.grid)
    elif asked.seeds is not None or (asked.resume is not None and (asked.resume / SEEDS).exists()):
        simulate_seeds(asked)
    elif asked.resume is None:
        simulate_new(asked)
    else:
        _resume(asked, asked.resume)


@app.command(rich_help_panel=START, epilog="Example: mfscsn demo")
def demo(
    out: Out = None, resume: Resume = None, store: StoreRoot = PREPARED, rounds: Rounds = None, seed: Seed = None
) -> None:
    """Run the demonstration, three simulated centres, and its control."""
    path = resume or out or Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    simulate(federation=DEMO, rounds=rounds, seed=seed, out=None if resume else path, resume=resume, store=store)
    _control(path)


def _control(path: Path) -> None:
    """Train a demonstration's last site once more, beside centres that have nothing to teach; say what it got."""
    from experiments.cli.show import ProgressLines, control_line
    from experiments.evaluate import evaluate as score_run
    from experiments.simulate import train_rounds
    from federation.run_folder import RunFolder
    from federation.site_scores import mean_score

    run = RunFolder(path)
    place, same = path / "control", {key: getattr(run.federation, key) for key in ("contract", "training")}
    if place.exists():
        control = RunFolder(place)
        prepare_shown(control.federation, control.store)
    else:
        federation = load(CONTROL, None).model_copy(update=same)
        control = RunFolder.create(place, prepare_shown(federation, run.store), run.store, 1)
    with ProgressLines() as show:
        train_rounds(control, show.progress)
    site = control.federation.site[-1]
    control_line(score_run(run), site.name, mean_score(control, site)["balanced_accuracy"])


@app.command(rich_help_panel=LOOK, epilog="Example: mfscsn evaluate RUN0 RUN1 RUN2")
def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUN...", show_default=False)],
) -> None:
    """Score finished runs again; several are averaged."""
    from experiments.cli.show import harm_lines, score_table
    from experiments.compare_runs import runs_at
    from experiments.evaluate import check_alike
    from experiments.evaluate import evaluate as score_run

    opened = [run for path in runs for run in runs_at(path)]
    check_alike(opened)
    score_table([score for run in opened for score in score_run(run)])
    if len(opened) == 1 and len(opened[0].federation.site) > 1:
        harm_lines(opened[0])


@app.command(rich_help_panel=LOOK, epilog="Example: mfscsn compare RUN OTHER --csv table.csv")
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs, or of their seeds.", metavar="RUN...", show_default=False)
    ],
    against: Annotated[
        str | None, typer.Option(help="The method that all are compared with.  \\[default: the first run's local-site]")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV.", metavar="FILE")] = None,
    latex: Annotated[bool, typer.Option("--latex", help="Print it as LaTeX.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print its numbers as JSON.")] = False,
) -> None:
    """Compare runs: means with intervals, differences, effect sizes."""
    from experiments.cli.show import compared_table

    if latex and as_json:
        raise InputError("--latex and --json: give one of them")
    compared_table(runs, against, csv, "latex" if latex else "json" if as_json else "table")


def load(path: Path, data_root: Path | None) -> "Federation":
    """Read a federation's file."""
    from federation.contract import load_federation

    return load_federation(path, data_root)


def prepare_shown(federation: "Federation", store: Path) -> "Federation":
    """Prepare all sites, and show how far that is."""
    from experiments.cli.show import ProgressLines
    from experiments.prepare import prepare_sites

    with ProgressLines() as show:
        return prepare_sites(federation, store, show.prepared)


def simulate_new(asked: Simulation) -> None:
    """Begin a run and take it to its scores."""
    from experiments.simulate import new_run

    _carry_out(new_run(asked.load(), asked.out, asked.store, asked.threads, asked.device, prepare_shown), asked.engine)


def simulate_grid(asked: Simulation, grid: Path) -> None:
    """Run each combination in a folder of its own, named after it; those that are finished are left as they are."""
    from data.files import replaced
    from experiments.cli.show import compared_table
    from experiments.grid import combinations

    federation = asked.load()
    path = asked.resume or asked.out or Path("runs") / f"{federation.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    found = dict(combinations(grid, federation))
    for number, (name, one) in enumerate(found.items(), 1):
        place, file = path / name, path / f"{name}.toml"
        say(f"{number} of {len(found)}: {name}")
        with replaced(file) as out:
            out.write(one.to_toml().encode())
        (path / GRID).touch()
        of_one = replace(
            asked, federation=file, data_root=None, grid=None, rounds=None, seed=None, out=place, resume=None
        )
        seeds = json.loads((place / SEEDS).read_text()) if (place / SEEDS).exists() else None
        runs = [place] if seeds is None else [place / f"seed-{seed}" for seed in seeds]
        if not place.exists():
            simulate(**vars(of_one))
        elif not all((run / "scores.csv").exists() for run in runs):
            simulate(**vars(replace(of_one, out=None, resume=place)))
    compared_table([path / name for name in found])
    say("what is chosen by this table was tuned on its targets: score it on others")


def simulate_seeds(asked: Simulation) -> None:
    """Begin or go on with a run of several seeds: a folder for each, and one table of them all."""
    from data.files import replaced
    from experiments.cli.show import compared_table

    if asked.resume is None:
        federation = asked.load()
        first, n = federation.training.seed, asked.seeds or 1
        path = asked.out or Path("runs") / f"{federation.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        check_free(path)
        prepare_shown(federation, asked.store)
        with replaced(path / SEEDS) as file:
            file.write(json.dumps(list(range(first, first + n))).encode())
    else:
        path = asked.resume
        if asked.federation is None and not list(path.glob("seed-*/federation.toml")):
            raise InputError(f"{path}: no seed has begun; give the federation's file, too")
    for seed in json.loads((path / SEEDS).read_text()):
        place = path / f"seed-{seed}"
        if (place / "federation.toml").exists():
            _resume(replace(asked, seed=seed, out=None, resume=place), place)
        else:
            begun = next(path.glob("seed-*/federation.toml"), None)
            simulate_new(replace(asked, federation=asked.federation or begun, seed=seed, out=place, resume=None))
    compared_table([path])


def _resume(asked: Simulation, path: Path) -> None:
    from experiments.simulate import check_resumed
    from federation.run_folder import RunFolder

    if asked.out is not None and asked.out.resolve() != path.resolve():
        raise InputError(f"--out {asked.out} and --resume {path} name two folders: a resumed run stays in its own")
    run = RunFolder(path)
    federation = run.federation if asked.federation is None else replace(asked, rounds=None, seed=None).load()
    check_resumed(run, federation, asked.rounds, asked.seed)
    prepare_shown(run.federation, run.store)
    _carry_out(run, asked.engine)


def _carry_out(run: "RunFolder", engine: str) -> None:
    from experiments.cli.show import ProgressLines, harm_lines, privacy_lines, score_table, secure_line
    from experiments.simulate import simulate as run_simulation

    try:
        with ProgressLines() as show:
            scores = run_simulation(run, show.progress, engine)
    except KeyboardInterrupt:
        whole = run.path
        while (whole.parent / SEEDS).exists() or (whole.parent / GRID).exists():
            whole = whole.parent
        print(f"interrupted; the same command with --resume {os.path.relpath(whole)} goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    score_table(scores)
    if len(run.federation.site) > 1:
        harm_lines(run)
    secure_line(run.secure_aggregation())
    privacy_lines(run.spent())
    from experiments.compare_runs import compare_runs, rows_of, verdict
    from experiments.report.run import report as report_run

    if scores:
        say(verdict(compare_runs(rows_of([run.path]))))
    page = report_run(run)
    say(f"run folder: {os.path.relpath(run.path)}\nreport: {os.path.relpath(page)}")
