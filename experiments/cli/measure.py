"""`mfscsn benchmark`, `report`, `audit`, `score` and `speed`: how good it is, what it tells, and what it costs."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from data.errors import InputError
from experiments.cli.options import BEETL, LOOK, PREPARED, DataRoot, Jobs, StoreRoot, takes
from experiments.cli.say import say
from experiments.cli.train import DEMO, load, prepare_shown

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What `mfscsn benchmark` is told."""

    bench: Annotated[Path, typer.Argument(help="The benchmark's file.", metavar="BENCH.toml", show_default=False)]
    methods: Annotated[
        str | None, typer.Option(help="Only these, with commas between.", metavar="NAME,...", show_default=False)
    ] = None
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds, in place of the file's.")] = None
    jobs: Jobs = None
    results: Annotated[
        Path | None,
        typer.Option("--out", help="The table of results.  \\[default: as the file says, or results/NAME.csv]"),
    ] = None
    shuffle_labels: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="SEED", help="Shuffle labels within each run: a leak would show as a score above chance."
        ),
    ] = None
    spread: Annotated[
        bool, typer.Option("--scales", help="Print how far each method's kept logits spread, and compute nothing.")
    ] = False
    data_root: DataRoot = None
    store: StoreRoot = PREPARED


@app.command(rich_help_panel=LOOK, epilog="Example: mfscsn benchmark experiments/benchmark/centres.toml")
@takes(Benchmark)
def benchmark(asked: Benchmark) -> None:
    """Compare all methods on the same trials; resumable."""
    _needs("braindecode", "pyriemann")
    from experiments.benchmark.laboratories import print_laboratories
    from experiments.benchmark.report import report_benchmark
    from experiments.benchmark.run import (
        check_method,
        chosen_rows,
        load_bench,
        missing_jobs,
        new_sites,
        prepare_bench,
        read_results,
        results_path,
        run_benchmark,
        scales,
        shuffled_store,
    )
    from experiments.benchmark.show import print_benchmark
    from experiments.cli.show import ProgressLines
    from experiments.progress import Progress

    plan, federation, made_with = load_bench(asked.bench, asked.data_root)
    chosen = plan.methods if asked.methods is None else [name.strip() for name in asked.methods.split(",")]
    for method in chosen:
        check_method(method, plan.methods, str(asked.bench))
    plan = plan.model_copy(update={"methods": chosen, "seeds": asked.seeds or plan.seeds})
    shuffle, store = asked.shuffle_labels, asked.store
    made_with["shuffled_labels"] = shuffle
    name = asked.bench.stem + ("" if shuffle is None else f"-shuffled-{shuffle}")
    table = asked.results or results_path(plan, asked.bench, name)
    rows = read_results(table, made_with)
    if asked.spread:
        for which, value in scales(chosen_rows(plan, rows)).items():
            say(f"{which!s:<28} {value:.3g}")
        return
    page = table.with_suffix(".html")
    ran = bool(missing_jobs(plan, rows, new_sites(plan, federation)))
    if ran:
        with ProgressLines() as show:
            federation = prepare_bench(plan, federation, store, show.prepared)
            if shuffle is not None:
                store, real = store / "shuffled", store
                shuffled_store(real, store, shuffle)
            rows = run_benchmark(
                plan,
                federation,
                store,
                table,
                made_with,
                asked.jobs or len(os.sched_getaffinity(0)),
                lambda what, done, total: show.progress(Progress(what, done, total)),
            )
    rows = chosen_rows(plan, rows)
    if plan.laboratories is None:
        print_benchmark(rows, name, plan.searched)
    else:
        print_laboratories(rows, plan.laboratories)
    if ran or not page.exists():  # what is kept is read, and not written again
        page = report_benchmark(rows, table, name, plan.searched, plan.laboratories)
    there = set(rows["site"])
    parts = [f"-{name}" for name, sites in (plan.laboratories or {}).items() if there & set(sites)] or [""]
    plots = [str(table.with_name(f"{table.stem}{part}.{kind}")) for part in parts for kind in ("svg", "png")]
    say(f"results: {table}; plots: {', '.join(plots)}")
    say(f"report: {page}")


@app.command(rich_help_panel=LOOK, epilog="Example: mfscsn report RUN")
def report(
    what: Annotated[
        list[Path],
        typer.Argument(
            help="A run's folder, several, or a benchmark's file.", metavar="RUN...|BENCH.toml", show_default=False
        ),
    ],
    results: Annotated[
        Path | None, typer.Option("--results", help="A benchmark's table, in place of the file's.", metavar="FILE")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page of several runs.  \\[default: comparison.html; of seeds, report.html in their folder]",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Write report.html: scores, curves, maps, costs, warnings; of several runs, one page that compares them."""

    if len(what) > 1 or what[0].suffix != ".toml":
        if results is not None:
            raise InputError(f"--results {results} is of a benchmark, and {what[0]} is no BENCH.toml")
        _report_runs(what, out)
        return
    if out is not None:
        raise InputError(f"--out {out} is of several runs; a benchmark's report lies beside its results")
    from experiments.benchmark.report import report_benchmark
    from experiments.benchmark.run import chosen_rows, load_bench, read_results, results_path

    plan, _, made_with = load_bench(what[0])
    made_with["shuffled_labels"] = None
    table = results or results_path(plan, what[0], what[0].stem)
    rows = chosen_rows(plan, read_results(table, made_with))
    if rows.empty:
        raise InputError(f"{table}: no results yet; `mfscsn benchmark {what[0]}` computes them")
    say(f"report: {report_benchmark(rows, table, what[0].stem, plan.searched, plan.laboratories)}")


def _report_runs(paths: list[Path], out: Path | None) -> None:
    from experiments.compare_runs import runs_at
    from experiments.report.run import report as report_run
    from experiments.report.several import report_several

    runs = runs_at(paths[0])
    if len(paths) == 1 and len(runs) == 1:
        if out is not None:
            raise InputError(f"--out {out} is of several runs; that of one is {paths[0] / 'report.html'}")
        page = report_run(runs[0])
    else:
        page = report_several(paths, out or (Path("comparison.html") if len(paths) > 1 else paths[0] / "report.html"))
    say(f"report: {os.path.relpath(page)}")


@app.command(rich_help_panel=LOOK, epilog="Example: mfscsn control RUN")
def control(
    run: Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN", show_default=False)],
    jobs: Jobs = None,
) -> None:
    """Train a run's null: the others' labels shuffled, for each site."""
    from experiments.cli.show import ProgressLines
    from experiments.control import train_null
    from experiments.progress import Progress
    from experiments.report.run import report as report_run
    from federation.run_folder import RunFolder

    opened = RunFolder(run)
    with ProgressLines() as show:
        gain = train_null(
            opened, jobs or len(os.sched_getaffinity(0)), lambda d, n: show.progress(Progress("sites", d, n))
        )
    say(f"mf-scsn minus its null, beside sites that teach nothing: {gain}")
    say(f"report: {os.path.relpath(report_run(opened))}")


@app.command(rich_help_panel=LOOK, epilog="Example: mfscsn track RUN --to tensorboard:logs --follow")
def track(
    run: Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN", show_default=False)],
    to: Annotated[
        str, typer.Option(help="Where numbers go.", metavar="tensorboard:FOLDER|mlflow:URI", show_default=False)
    ],
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run has its scores.")] = False,
) -> None:
    """Hand a run's numbers to TensorBoard or MLflow; no recording, no subject, no path."""
    from experiments.tracking import track as hand_over
    from experiments.tracking import tracker_at
    from federation.run_folder import RunFolder

    opened = RunFolder(run)
    seen = hand_over(opened, tracker_at(to, opened.path.name), follow)
    say(f"rounds 1 to {seen} and what scores there are went to {to}")


@app.command(rich_help_panel=LOOK, epilog="Example: mfscsn audit RUN")
def audit(
    run: Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN", show_default=False)],
    parts: Annotated[
        str | None,
        typer.Option(
            help="What to play, with commas between: inversion, membership, identity, labels, price, byzantine;"
            " persons, of one message.  \\[default: all that the run allows]",
            metavar="PART,...",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often, each time with another seed.")] = 3,
    jobs: Jobs = None,
) -> None:
    """Attack a finished simulation, as server and as site."""
    from experiments.audit.run import PARTS, playable
    from experiments.audit.run import audit as play
    from experiments.audit.show import plot_price, print_audit
    from experiments.cli.show import ProgressLines
    from experiments.progress import Progress
    from federation.run_folder import RunFolder

    opened = RunFolder(run)
    chosen = playable(opened) if parts is None else _parts(parts, list(PARTS))
    with ProgressLines() as show:
        findings = play(
            opened,
            chosen,
            seeds,
            jobs or len(os.sched_getaffinity(0)),
            lambda what, done, total: show.progress(Progress(what, done, total)),
        )
    print_audit(findings)
    files = [opened.path / "audit.csv", *(plot_price(findings, opened.path) if "price" in chosen else [])]
    say(f"the audit: {', '.join(os.path.relpath(file) for file in files)}")


@app.command(rich_help_panel=BEETL, epilog="Example: mfscsn score answer.txt labels.txt")
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

    from data.beetl_answer import are_organisers, read_codes, read_label_file
    from experiments.beetl.score import as_document, gain
    from experiments.beetl.score import score as score_answer
    from experiments.beetl.show import beetl_score_table, gain_line

    codes, truth = read_codes(answer), read_label_file(labels)
    scored = score_answer(codes, truth)
    compared = None if against is None else gain(codes, read_codes(against), truth)
    if as_json:
        words = {"answer": str(answer), "labels": str(labels), "organisers_labels": are_organisers(truth)}
        say(json.dumps({**words, **as_document(scored), "gain": compared and asdict(compared)}, indent=1))
        return
    whose = "the organisers'" if are_organisers(truth) else "not the organisers'"
    beetl_score_table(scored, f"answer: {answer}\nlabels: {labels} ({whose})")
    if compared is not None:
        gain_line(compared, str(against))


@app.command(rich_help_panel=LOOK, epilog="Example: mfscsn speed --parts step")
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

    chosen = _parts(parts, list(PARTS))
    configured = load(federation or DEMO, data_root)
    if not OF_A_FEDERATION.isdisjoint(chosen):
        configured = prepare_shown(configured, store)
    rows = []
    speed_title()
    with tempfile.TemporaryDirectory(prefix="mfscsn-speed-") as work:
        for row in measure(chosen, configured, store, Path(work), repetitions):
            speed_row(row)
            rows.append(asdict(row))
    if as_json is not None:
        with replaced(as_json) as out:
            out.write(json.dumps(rows, indent=1).encode())


def _parts(text: str, known: list[str]) -> list[str]:
    from federation.tables import suggested

    chosen = [part.strip() for part in text.split(",")]
    for part in chosen:
        if part not in known:
            raise InputError(f"--parts: no such part {part!r}{suggested(part, known)}; there are {', '.join(known)}")
    return chosen


def _needs(*modules: str) -> None:
    """Raise InputError when something is not installed that a command needs and training does not."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise InputError(f"this command needs {module}; pip install 'mfscsn[benchmark]'")
