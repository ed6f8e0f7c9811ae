"""What a person sees in the terminal: progress bars and the table of scores. Drawn by rich."""

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from data.errors import printable
from experiments.cli.say import say
from experiments.progress import Progress

if TYPE_CHECKING:
    from experiments.evaluate import Score
    from experiments.speed.run import Row
    from federation.run_folder import RunFolder


SPEAK_SECONDS = 10.0
WIDE = 130  # columns that a comparison needs


class ProgressLines:
    """A bar for each stage; where the output is no terminal, a line every ten seconds and at a stage's end."""

    def __init__(self) -> None:
        self.bars = Bars(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        self.tasks: dict[str, TaskID] = {}
        self.began = self.spoke = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.tasks:
            self.bars.stop()

    def line(self, text: str) -> None:
        """Print a line above the bars, at once."""
        self.bars.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def progress(self, step: Progress) -> None:
        """Show a step of `simulate`."""
        if not self.bars.console.is_terminal:
            self._speak(step)
            return
        if not self.tasks:  # no bars for input that is refused at once
            self.bars.start()
        if step.stage not in self.tasks:
            self.tasks[step.stage] = self.bars.add_task(step.stage, total=step.total, detail="")
        self.bars.update(self.tasks[step.stage], completed=step.done, total=step.total, detail=step.detail)

    def _speak(self, step: Progress) -> None:
        now = time.monotonic()
        if now < self.spoke + SPEAK_SECONDS and step.done < step.total:
            return
        self.spoke = now
        say(f"{step.stage} {step.done}/{step.total}, {now - self.began:.0f} s {step.detail}".rstrip())

    def prepared(self, site: str, what: str, done: int, total: int) -> None:
        """Show a subject that `prepare` has done."""
        self.progress(Progress(f"prepare {site}", done, total, what))


def site_score_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print what sites let out after the last round."""
    table = Table(title="what sites let out after the last round", title_justify="left", box=box.SIMPLE_HEAD)
    held_out = any(row["balanced_accuracy"] for row in rows)
    for column in ("site", "last layers"):
        table.add_column(column)
    for column in ("targets", "balanced accuracy, percent") if held_out else ():
        table.add_column(column, justify="right")
    for row in rows:
        score = row["balanced_accuracy"]
        cells = (row["n_targets"] or "-", f"{100 * float(score):.1f}" if score else "-") if held_out else ()
        table.add_row(escape(printable(row["site"])), row["status"], *cells)
    Console().print(table)


def secure_line(noted: Mapping[str, Any] | None) -> None:
    """Print what secure aggregation did to the layers, if a run had it."""
    if noted:
        say(
            f"secure aggregation of {noted['sites']} sites: a value of the common layers is"
            f" within {noted['error']:.1e} of the plain mean"
        )


def privacy_lines(spent: Mapping[str, tuple[float, float, float, str]]) -> None:
    """Print what sites with differential privacy have spent."""
    for site, (epsilon, budget, delta, unit) in spent.items():
        say(f"privacy of site {site}: epsilon {epsilon:.3g} of {budget:g} is spent (delta {delta:g}), of {unit}")


def server_status(answer: Mapping[str, Any]) -> None:
    """Print how a server, its sites and its newest run stand."""
    say(f"server: {answer['server']}; its certificate runs for {answer['certificate_days']} more days")
    for name, site in answer["sites"].items():
        state = "connected" if site["connected"] else "not connected"
        heard = f", last heard {site['heard']}" if site["heard"] else ""
        say(f"site {name}: {state}, since {site['since'] or 'never'}{heard}")
    for why in answer["damaged_runs"]:
        say(f"damaged: {why}")
    run = answer["run"]
    if run is None:
        say("no run yet")
        return
    say(f"run {run['folder']}: {run['state']}, round {run['round']} of {run['rounds']}")
    for name, state in run["last_round"].items():
        say(f"  round {run['round']}, site {name}: {state}")
    if run["failure"]:
        say(f"  failed: {run['failure']}")


def speed_title() -> None:
    """Print the head of the table that `speed_row` goes on with; rows come one by one, as they are measured."""
    say("| part | what | ours | rival | ratio |\n|---|---|---|---|---|")


def speed_row(row: "Row") -> None:
    """Print one measurement."""
    rival = "" if row.rival is None else f"{row.rival:.3g} {row.unit}, {row.against}"
    times = "" if row.ratio is None else f"{row.ratio:.3g}"
    say(f"| {row.part} | {row.what} | {row.ours:.3g} {row.unit} | {rival} | {times} |")


def score_table(scores: Sequence["Score"]) -> None:
    """Print balanced accuracy in percent: a row a target subject (mean over seeds), then means, then who gained."""
    from experiments.evaluate import METHODS, paired_difference

    values: dict[tuple[str, str, str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        key = score.site, score.dataset, score.subject, score.n_test
        values[key][score.method].append(100 * score.balanced_accuracy)
    if not values:
        Console().print("no target subject in this federation: nothing to score")
        return
    by_target = {key: [mean(of_method[m]) for m in METHODS] for key, of_method in values.items()}
    seeds = sorted({score.seed for score in scores})
    title = f"balanced accuracy on held-back trials, percent; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("site", "subject", "n_test", *METHODS):
        table.add_column(column, justify="left" if column in ("site", "subject") else "right", no_wrap=True)
    site_means = []
    for site in dict.fromkeys(key[0] for key in by_target):
        rows = {key: row for key, row in by_target.items() if key[0] == site}
        several = len({key[1] for key in rows}) > 1
        for (_, dataset, subject, n_test), row in rows.items():
            whose = printable(f"{dataset} {subject}" if several else subject)
            table.add_row(printable(site), escape(whose), str(n_test), *_percent(row))
        site_means.append([mean(column) for column in zip(*rows.values(), strict=True)])
        table.add_row(site, "mean", "", *_percent(site_means[-1]), style="bold")
        table.add_section()
    table.add_row("all sites", "mean", "", *_percent([mean(c) for c in zip(*site_means, strict=True)]), style="bold")
    Console().print(table)
    *rivals, ours = METHODS
    for rival in rivals:
        gain = paired_difference(scores, ours, rival)
        test = f", Wilcoxon p = {gain.p:.2g}" if gain.p is not None else ""
        Console(soft_wrap=True).print(
            f"{ours} minus {rival}: {gain.mean:+.1f} points on the mean over subjects,"
            f" {gain.n_better} of {gain.n_subjects} better{test}",
            highlight=False,
        )


def compared_table(
    runs: Sequence[Path], against: str | None = None, csv: Path | None = None, form: str = "table"
) -> None:
    """Print runs side by side, as a table, LaTeX or JSON; write a CSV where asked for."""
    from data.files import replaced
    from experiments.compare_runs import as_csv, as_frame, as_json, as_latex, compare_runs, rows_of, verdict

    compared = compare_runs(rows_of(runs), against)
    frame = as_frame(compared)
    if csv is not None:
        with replaced(csv) as out:
            out.write(as_csv(compared).encode())
    if form == "json":
        say(as_json(compared))
        return
    if form == "latex":
        say(as_latex(compared), end="")
        return
    table, console = Table(box=box.SIMPLE_HEAD), Console()
    if console.width < WIDE:
        frame = frame.drop(columns=["accuracy", "kappa", "AUC", "effect size d"])
        frame.columns = [name.replace("balanced accuracy, percent (95 %)", "percent (95 %)") for name in frame.columns]
    for k, column in enumerate(frame.columns):
        table.add_column(column, justify="right" if k else "left", no_wrap=k == 0)
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(printable(cell)) for cell in row))
    console.print(table)
    if console.width < WIDE:
        say(f"balanced accuracy; a terminal of {WIDE} columns, --csv, --latex and --json show more")
    say(verdict(compared))


def harm_lines(run: "RunFolder") -> None:
    """Say of which sites the federated model is worse than their own, and how such a site keeps its own."""
    import pandas as pd

    from experiments.report.scores import ScoreDraws

    predictions = pd.read_csv(run.path / "predictions.csv", dtype=str, keep_default_na=False)
    for site, change in ScoreDraws(predictions).losing_sites().items():
        command = f"mfscsn predict {os.path.relpath(run.path)} --site {site} --own ..."
        say(
            f"site {site}: the federated model does worse than the site alone, by more than its test trials explain:"
            f" {change.mean:+.1f} points ({change.low:+.1f} to {change.high:+.1f}); `{command}` keeps to its own"
        )


def control_line(scores: Sequence["Score"], site: str, with_nothing: float) -> None:
    """Say what a site's federated model has beside centres that know something, and beside such that know nothing."""
    ours, alone = (
        mean(100 * s.balanced_accuracy for s in scores if (s.site, s.method) == (site, method))
        for method in ("mf-scsn", "local-site")
    )
    say(
        f"control: beside centres whose EEG holds no imagery, mf-scsn has {100 * with_nothing:.1f} at the {site};"
        f" beside those of the demonstration {ours:.1f}; the {site} alone (local-site) {alone:.1f}"
    )


def _percent(row: Sequence[float]) -> list[str]:
    return [f"{value:.1f}" for value in row]
