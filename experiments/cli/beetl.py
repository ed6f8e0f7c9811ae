"""The `mfscsn beetl` commands: fetch, check, run, tune, simulate."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from data.errors import InputError
from experiments.cli.options import PREPARED, Device, StoreRoot, Threads, takes
from experiments.cli.say import say

if TYPE_CHECKING:
    from experiments.beetl.run import Task
    from federation.contract import Federation
    from federation.run_folder import RunFolder

app = typer.Typer(
    no_args_is_help=True, suggest_commands=False, help="The BEETL competition, download to score (docs/beetl.md)."
)

Phase = Literal["final", "leaderboard"]
PhaseOption = Annotated[Phase, typer.Option(help="Phase of the competition.")]
Folder = Annotated[Path, typer.Argument(help="The competition's folder.", metavar="DIR", show_default=False)]
Data = Annotated[
    Path | None, typer.Option(help="The folder that holds finalMI and leaderboardMI; needed.", metavar="DIR")
]
Sources = Annotated[
    Literal["moabb", "simulated", "null"],
    typer.Option(help="The three source data sets: MOABB's, simulated ones, or simulated without imagery (control)."),
]
Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds, in place of the settings'.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of the training.  \\[default: 0]")]
Unit = Annotated[
    list[str] | None, typer.Option(help="What converted files are in, such as B=volts.", metavar="A|B=UNIT")
]


@app.command(epilog="Example: mfscsn beetl fetch --to D")
def fetch(
    to: Annotated[Path | None, typer.Option(help="Where to, in place of MOABB's own folder.", metavar="DIR")] = None,
    phase: PhaseOption = "final",
) -> None:
    """Download both phases through MOABB, check them, and note down what every file is."""
    from experiments.beetl.check import fetch_competition

    say(f"the competition: {fetch_competition(phase, to)}")


@app.command(epilog="Example: mfscsn beetl check D")
def check(folder: Folder, phase: PhaseOption = "final", unit: Unit = None) -> None:
    """Check that every file is there and what it should be, and weigh what A's codes mean."""
    from experiments.beetl.check import check_competition
    from experiments.beetl.show import check_table

    check_table(check_competition(folder, phase, _units(unit)))


@app.command(epilog="Example: mfscsn beetl simulate D")
def simulate(
    folder: Folder, seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of the simulated subjects.")] = 0
) -> None:
    """Make a whole competition, simulated, with known labels: a test bed, and a dry run without the data."""
    from data.beetl_simulated import simulate_competition
    from experiments.cli.show import ProgressLines
    from experiments.progress import Progress

    with ProgressLines() as show:
        simulate_competition(
            folder, seed, lambda what, done, total: show.progress(Progress("simulate", done, total, what))
        )
    say(f"a simulated competition: {folder}")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What both `mfscsn beetl run` and `tune` are told."""

    data: Data = None
    phase: PhaseOption = "final"
    sources: Sources = "moabb"
    rounds: Rounds = None
    seed: Seed = None
    unit: Unit = None
    store: StoreRoot = PREPARED
    threads: Threads = 1
    device: Device = "cpu"

    def task(self, method: str = "mf-scsn", transductive: bool = False) -> "Task":
        """Return what is asked for."""
        from experiments.beetl.run import Task

        if self.data is None:
            raise InputError("give --data DIR, the folder that `mfscsn beetl fetch` or `mfscsn beetl simulate` made")
        return Task(str(self.data.resolve()), self.phase, self.sources, method, transductive)

    def settings(self, path: Path | None = None) -> dict[str, Any]:
        """Read the settings' file, with what the command line says in its place."""
        from federation.tables import read_toml

        settings = read_toml(path) if path else {}
        given = {key: value for key, value in (("rounds", self.rounds), ("seed", self.seed)) if value is not None}
        if given and isinstance(settings.setdefault("training", {}), dict):
            settings["training"] |= given
        return settings


@dataclass(frozen=True, kw_only=True)
class Run(Training):
    """What `mfscsn beetl run` is told."""

    method: Annotated[
        Literal["mf-scsn", "local-site", "baseline"],
        typer.Option(help="The federation; its target sites unshared; the organisers' network for each subject."),
    ] = "mf-scsn"
    transductive: Annotated[
        bool, typer.Option("--transductive", help="Answer a second time, aligned on the unlabelled test trials.")
    ] = False
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="Tables \\[contract] and \\[training], as `tune` writes them.")
    ] = None
    out: Annotated[Path | None, typer.Option(help="The run's folder.  \\[default: runs/beetl-METHOD-DATE]")] = None
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, as it was begun.", metavar="RUN")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Tune(Training):
    """What `mfscsn beetl tune` is told."""

    tries: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            help="Values of one setting, such as training.lr=5e-4,1e-3; several are crossed."
            "  \\[default: training.lr=0.004,0.008]",
            metavar="KEY=VALUES",
        ),
    ] = None
    out: Annotated[Path, typer.Option(help="The file for the chosen settings.")] = Path("tuned.toml")
    work: Annotated[Path, typer.Option(help="Folder for the runs; what is done there is not done again.")] = Path(
        "runs/beetl-tune"
    )


@app.command(epilog="Example: mfscsn beetl run --data D --sources simulated")
@takes(Run)
def run(asked: Run) -> None:
    """Train, write answer.txt and answer.zip, and score them where the labels are at hand."""
    from experiments.beetl.run import answer, beetl_federation, begin_run, reopen_run
    from experiments.beetl.show import beetl_score_table
    from experiments.cli.show import ProgressLines

    with ProgressLines() as show:
        if asked.resume is not None:
            _check_alone("--resume", ("resume", "transductive"))
            started, task = reopen_run(asked.resume, show.prepared, asked.transductive)
        else:
            task = asked.task(asked.method, asked.transductive)
            where = str(asked.settings_file or "beetl.toml")
            federation = beetl_federation(task, asked.settings(asked.settings_file), _units(asked.unit), where=where)
            path = asked.out or Path("runs") / f"beetl-{task.method}-{time.strftime('%Y%m%d-%H%M%S')}"
            started = begin_run(task, federation, path, asked.store, asked.threads, asked.device, show.prepared)
    _train(started, task)
    for answered in answer(started, task):
        say(f"{answered.name}: {os.path.relpath(answered.path)} and .zip")
        if answered.score is None:
            say("not scored: the labels of this phase are not at hand")
        else:
            beetl_score_table(answered.score, _title(task, started, answered.name))
    say(f"run folder: {os.path.relpath(started.path)}")


@app.command(epilog="Example: mfscsn beetl tune --data D")
@takes(Tune)
def tune(asked: Tune) -> None:
    """Choose settings on labelled trials: leave one race (A) or block (B) out. Five whole runs a candidate."""
    from experiments.beetl.run import begin_or_reopen
    from experiments.beetl.show import tune_table
    from experiments.beetl.tune import Tuning, candidates, choose, describe, write_settings
    from experiments.cli.show import ProgressLines

    task = asked.task()
    if asked.out.exists():
        raise InputError(f"{asked.out}: already exists; give another --out, or move it away")
    grid = candidates(asked.tries or [])
    if asked.rounds is not None and "training.rounds" in grid[0]:
        raise InputError("--rounds and --try training.rounds=... say two things; leave one of them out")
    with ProgressLines() as show:

        def start(federation: "Federation", fold: Path) -> "RunFolder":
            return begin_or_reopen(task, federation, fold, asked.store, asked.threads, asked.device, show.prepared)

        tuning = Tuning(task, asked.settings(), _units(asked.unit), asked.work, start)
        tried = choose(tuning, grid, show.progress, lambda t: show.line(f"{t.score:.2f} with {describe(t.settings)}"))
    write_settings(asked.out, tried, task, asked.rounds)
    tune_table(tried)
    say(f"chosen settings: {asked.out}; score the test once: mfscsn beetl run --settings {asked.out} ...")


def _train(run: "RunFolder", task: "Task") -> None:
    from experiments.beetl.run import train_run
    from experiments.cli.show import ProgressLines

    try:
        with ProgressLines() as show:
            train_run(run, task.method, show.progress)
    except KeyboardInterrupt:
        print(f"interrupted; mfscsn beetl run --resume {os.path.relpath(run.path)} goes on", file=sys.stderr)
        raise typer.Exit(130) from None


def _title(task: "Task", run: "RunFolder", name: str) -> str:
    sources = f", {task.sources} sources" if task.method == "mf-scsn" else ""
    how = ", transductive: aligned on the unlabelled test trials" if name != "answer" else ""
    return f"{task.method}{sources}, seed {run.federation.training.seed}{how}"


def _units(words: list[str] | None) -> dict[str, str]:
    units = {}
    for word in words or []:
        name, _, value = word.partition("=")
        if name not in ("A", "B") or value not in ("volts", "microvolts"):
            raise InputError(f"--unit {word}: expected A or B, =, and volts or microvolts, such as --unit B=volts")
        units[name] = value
    return units


def _check_alone(option: str, allowed: tuple[str, ...]) -> None:
    """Refuse options beside `option`: a resumed run has its own."""
    import click

    context = click.get_current_context()
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in allowed and source is not None and source.name == "COMMANDLINE":
            raise InputError(f"{option} goes on with what the run was begun with; leave out --{name}")
