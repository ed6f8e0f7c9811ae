"""The `mfscsn` command. Errors that a user can mend are one line and exit code 2; a failed run exits with 1."""

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from data.errors import InputError, nearest
from experiments.cli.beetl import app as beetl_app
from experiments.cli.begin import app as begin_app
from experiments.cli.layers import app as layers_app
from experiments.cli.privacy import app as privacy_app
from experiments.cli.server import app as server_app
from experiments.cli.site import app as site_app
from federation.workers import warm_up

if TYPE_CHECKING:
    from federation.contract import Federation
    from federation.run_folder import RunFolder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    suggest_commands=False,  # click does
    pretty_exceptions_enable=False,
    help="Federated motor-imagery EEG: only the common layers leave a site.",
)

app.add_typer(begin_app)
app.add_typer(layers_app)
app.add_typer(beetl_app, name="beetl")
app.add_typer(privacy_app, name="privacy")
app.add_typer(server_app, name="server")
app.add_typer(site_app, name="site")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mfscsn {version('mfscsn')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which it is.")
    ] = False,
) -> None:
    """Take what stands before a command."""


FedFile = Annotated[Path, typer.Argument(help="The federation's file.", metavar="FED.toml", show_default=False)]
DataRoot = Annotated[Path | None, typer.Option(help="Where bids: folders lie, in place of the file's data_root.")]
StoreRoot = Annotated[Path, typer.Option(help="Folder for prepared trials.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds, in place of the file's.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed, in place of the file's.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder.  \\[default: runs/NAME-DATE-TIME]")]
Resume = Annotated[
    Path | None, typer.Option(help="Continue the run in this folder, with its own store and threads.", metavar="RUN")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads a site trains with; results repeat at one number.")]
PREPARED = Path("prepared")


@app.command()
def prepare(federation: FedFile, data_root: DataRoot = None, store: StoreRoot = PREPARED) -> None:
    """Turn recordings into trials on disk; only what is new."""
    _prepare(_load(federation, data_root, None, None), store)
    typer.echo(f"prepared trials: {store}")


@app.command()
def simulate(
    federation: FedFile,
    rounds: Rounds = None,
    seed: Seed = None,
    out: Out = None,
    resume: Resume = None,
    data_root: DataRoot = None,
    store: StoreRoot = PREPARED,
    threads: Threads = 1,
) -> None:
    """Train a federation on this machine, to scores and a report."""
    warm_up(threads)
    if resume is None:
        _simulate_new(_load(federation, data_root, rounds, seed), out, store, threads)
    else:
        _resume(resume, out, _load(federation, data_root, None, None), rounds, seed)


@app.command()
def demo(
    out: Out = None, resume: Resume = None, store: StoreRoot = PREPARED, rounds: Rounds = None, seed: Seed = None
) -> None:
    """Run the demonstration: three simulated centres that differ."""
    warm_up(threads=1)
    path = Path(str(files("experiments") / "federations" / "demo.toml"))
    if resume is None:
        _simulate_new(_load(path, None, rounds, seed), out, store, 1)
    else:
        _resume(resume, out, _load(path, None, None, None), rounds, seed)


@app.command()
def benchmark(
    bench: Annotated[Path, typer.Argument(help="The benchmark's file.", metavar="BENCH.toml", show_default=False)],
    methods: Annotated[
        str | None, typer.Option(help="Only these, with commas between.", metavar="NAME,...", show_default=False)
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds, in place of the file's.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes.  \\[default: one a core]")] = None,
    results: Annotated[
        Path | None,
        typer.Option("--out", help="The table of results.  \\[default: as the file says, or results/NAME.csv]"),
    ] = None,
    shuffle_labels: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="SEED", help="Shuffle labels within each run: a leak would show as a score above chance."
        ),
    ] = None,
    data_root: DataRoot = None,
    store: StoreRoot = PREPARED,
) -> None:
    """Compare all methods on the same trials; resumable."""
    _needs("braindecode", "pyriemann")
    from experiments.benchmark.report import report_benchmark
    from experiments.benchmark.run import (
        check_method,
        chosen_rows,
        load_bench,
        missing_jobs,
        prepare_bench,
        read_results,
        results_path,
        run_benchmark,
        shuffled_store,
    )
    from experiments.benchmark.show import print_benchmark
    from experiments.cli.show import ProgressLines
    from experiments.simulate import Progress

    plan, federation, made_with = load_bench(bench, data_root)
    chosen = plan.methods if methods is None else [name.strip() for name in methods.split(",")]
    for method in chosen:
        check_method(method, plan.methods, str(bench))
    plan = plan.model_copy(update={"methods": chosen, "seeds": seeds or plan.seeds})
    made_with["shuffled_labels"] = shuffle_labels
    name = bench.stem + ("" if shuffle_labels is None else f"-shuffled-{shuffle_labels}")
    table = results or results_path(plan, bench, name)
    rows = read_results(table, made_with)
    if missing_jobs(plan, rows):
        with ProgressLines() as show:
            federation = prepare_bench(plan, federation, store, show.prepared)
            if shuffle_labels is not None:
                store, real = store / "shuffled", store
                shuffled_store(real, store, shuffle_labels)
            rows = run_benchmark(
                plan,
                federation,
                store,
                table,
                made_with,
                jobs or os.cpu_count() or 1,
                lambda what, done, total: show.progress(Progress(what, done, total)),
            )
    rows = chosen_rows(plan, rows)
    print_benchmark(rows, name)
    page = report_benchmark(rows, table, name)
    typer.echo(f"results: {table}; plots: {table.with_suffix('.svg')}, {table.with_suffix('.png')}")
    typer.echo(f"report: {page}")


@app.command()
def report(
    what: Annotated[
        Path,
        typer.Argument(help="A run's folder, or a benchmark's file.", metavar="RUN|BENCH.toml", show_default=False),
    ],
    results: Annotated[
        Path | None, typer.Option("--results", help="A benchmark's table, in place of the file's.", metavar="FILE")
    ] = None,
) -> None:
    """Write report.html: scores, curves, maps, costs, warnings."""
    from federation.run_folder import RunFolder

    if what.suffix != ".toml":
        if results is not None:
            raise InputError(f"--results {results} is of a benchmark, and {what} is no BENCH.toml")
        from experiments.report.run import report as report_run

        typer.echo(f"report: {os.path.relpath(report_run(RunFolder(what)))}")
        return
    from experiments.benchmark.report import report_benchmark
    from experiments.benchmark.run import chosen_rows, load_bench, read_results, results_path

    plan, _, made_with = load_bench(what)
    made_with["shuffled_labels"] = None
    table = results or results_path(plan, what, what.stem)
    rows = chosen_rows(plan, read_results(table, made_with))
    if rows.empty:
        raise InputError(f"{table}: no results yet; `mfscsn benchmark {what}` computes them")
    typer.echo(f"report: {report_benchmark(rows, table, what.stem)}")


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN", show_default=False)],
    parts: Annotated[
        str, typer.Option(help="What to play, with commas between.", metavar="PART,...")
    ] = "inversion,membership,identity,price,bad-site",
    seeds: Annotated[int, typer.Option(min=1, help="How often, each time with another seed.")] = 3,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes.  \\[default: one a core]")] = None,
) -> None:
    """Attack a finished simulation, as server and as site."""
    from experiments.audit.run import PARTS
    from experiments.audit.run import audit as play
    from experiments.audit.show import plot_price, print_audit
    from experiments.cli.show import ProgressLines
    from experiments.simulate import Progress
    from federation.run_folder import RunFolder

    chosen = [part.strip() for part in parts.split(",")]
    for part in chosen:
        if part not in PARTS:
            raise InputError(
                f"--parts: no such part {part!r}{nearest(part, list(PARTS))}; there are {', '.join(PARTS)}"
            )
    opened = RunFolder(run)
    with ProgressLines() as show:
        found = play(
            opened,
            chosen,
            seeds,
            jobs or os.cpu_count() or 1,
            lambda what, done, total: show.progress(Progress(what, done, total)),
        )
    print_audit(found)
    files = [opened.path / "audit.csv", *(plot_price(found, opened.path) if "price" in chosen else [])]
    typer.echo(f"the audit: {', '.join(os.path.relpath(file) for file in files)}")


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUN...", show_default=False)],
) -> None:
    """Score finished runs again; several are averaged."""
    from experiments.cli.show import score_table
    from experiments.evaluate import evaluate as score_run
    from federation.run_folder import RunFolder

    score_table([score for run in runs for score in score_run(RunFolder(run))])


@app.command()
def score(
    answer: Annotated[
        Path,
        typer.Argument(help="answer.txt, one code a line, or answer.zip.", metavar="ANSWER", show_default=False),
    ],
    labels: Annotated[Path, typer.Argument(help="The true codes, one a line.", metavar="LABELS", show_default=False)],
    against: Annotated[
        Path | None, typer.Option(help="Another answer, to compare with trial by trial.", metavar="ANSWER")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score an answer to BEETL as its organisers do."""
    import json
    from dataclasses import asdict

    from data.beetl_answer import are_organisers, read_codes, read_labels
    from experiments.beetl.score import as_document, gain
    from experiments.beetl.score import score as score_answer
    from experiments.beetl.show import gain_line, score_table

    codes, truth = read_codes(answer), read_labels(labels)
    found = score_answer(codes, truth)
    compared = None if against is None else gain(codes, read_codes(against), truth)
    if as_json:
        words = {"answer": str(answer), "labels": str(labels), "organisers_labels": are_organisers(truth)}
        typer.echo(json.dumps({**words, **as_document(found), "gain": compared and asdict(compared)}, indent=1))
        return
    whose = "the organisers'" if are_organisers(truth) else "not the organisers'"
    score_table(found, f"answer: {answer}\nlabels: {labels} ({whose})")
    if compared is not None:
        gain_line(compared, str(against))


@app.command()
def speed(
    federation: Annotated[
        Path | None, typer.Option(help="The federation to run.  \\[default: the demonstration]", metavar="FED.toml")
    ] = None,
    parts: Annotated[
        str, typer.Option(help="What to measure, with commas between.", metavar="PART,...")
    ] = "step,run,prepare,sites,bytes,deployed",
    repetitions: Annotated[int, typer.Option(min=1, help="Of everything that takes turns with a rival.")] = 5,
    as_json: Annotated[
        Path | None, typer.Option("--json", help="Write the measurements here as well.", metavar="FILE")
    ] = None,
    data_root: DataRoot = None,
    store: StoreRoot = PREPARED,
) -> None:
    """Measure what training costs on this machine, beside rivals."""
    import json
    import tempfile
    from dataclasses import asdict

    _needs("braindecode")
    from data.files import replaced
    from experiments.cli.show import speed_row, speed_title
    from experiments.speed.run import OF_A_FEDERATION, PARTS, measure

    chosen = [part.strip() for part in parts.split(",")]
    for part in chosen:
        if part not in PARTS:
            raise InputError(
                f"--parts: no such part {part!r}{nearest(part, list(PARTS))}; there are {', '.join(PARTS)}"
            )
    path = federation or Path(str(files("experiments") / "federations" / "demo.toml"))
    configured = _load(path, data_root, None, None)
    if not OF_A_FEDERATION.isdisjoint(chosen):
        configured = _prepare(configured, store)
    rows = []
    speed_title()
    with tempfile.TemporaryDirectory(prefix="mfscsn-speed-") as work:
        for row in measure(chosen, configured, store, Path(work), repetitions):
            speed_row(row)
            rows.append(asdict(row))
    if as_json is not None:
        with replaced(as_json) as out:
            out.write(json.dumps(rows, indent=1).encode())


def _needs(*modules: str) -> None:
    """Raise InputError when something is not installed that a command needs and training does not."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise InputError(f"this command needs {module}; pip install 'mfscsn[benchmark]'")


def _load(path: Path, data_root: Path | None, rounds: int | None, seed: int | None) -> "Federation":
    from federation.contract import load_federation

    federation = load_federation(path, data_root)
    changes = {key: value for key, value in (("rounds", rounds), ("seed", seed)) if value is not None}
    return federation.model_copy(update={"training": federation.training.model_copy(update=changes)})


def _prepare(federation: "Federation", store: Path) -> "Federation":
    from experiments.cli.show import ProgressLines
    from experiments.prepare import prepare_sites

    with ProgressLines() as show:
        return prepare_sites(federation, store, show.prepared)


def _simulate_new(federation: "Federation", out: Path | None, store: Path, threads: int) -> None:
    from federation.run_folder import RunFolder, check_free
    from federation.site_trials import check_labelled

    path = out or Path("runs") / f"{federation.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    check_free(path)
    federation = _prepare(federation, store)  # before the run folder: input that is refused leaves none behind
    for site in federation.site:
        check_labelled(site, federation.contract, store)
    _simulate(RunFolder.create(path, federation, store, threads))


def _resume(path: Path, out: Path | None, federation: "Federation", rounds: int | None, seed: int | None) -> None:
    from experiments.simulate import check_resumed
    from federation.run_folder import RunFolder

    if out is not None and out.resolve() != path.resolve():
        raise InputError(f"--out {out} and --resume {path} name two folders: a resumed run stays in its own")
    run = RunFolder(path)
    check_resumed(run, federation, rounds, seed)
    _prepare(run.federation, run.store)
    _simulate(run)


def _simulate(run: "RunFolder") -> None:
    from experiments.cli.show import ProgressLines, privacy_lines, score_table, secure_line
    from experiments.simulate import simulate as run_simulation

    try:
        with ProgressLines() as show:
            scores = run_simulation(run, show.progress)
    except KeyboardInterrupt:
        print(f"interrupted; the same command with --resume {os.path.relpath(run.path)} goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    score_table(scores)
    secure_line(run.secure_aggregation())
    privacy_lines(run.spent())
    from experiments.report.run import report as report_run

    page = report_run(run)
    typer.echo(f"run folder: {os.path.relpath(run.path)}\nreport: {os.path.relpath(page)}")


def main(words: Sequence[str] | None = None) -> None:
    """Run the command that was typed, or `words`; turn what a user can mend into one line."""
    os.environ.setdefault("MNE_LOGGING_LEVEL", "ERROR")
    try:
        code = app(args=words, prog_name="mfscsn", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:  # a command group without a command
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        print(f"error: {error.format_message()}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (InputError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
