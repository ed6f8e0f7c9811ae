"""What a person sees in the terminal: progress bars and the table of scores. Drawn by rich."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from experiments.evaluate import METHODS, Score
from experiments.simulate import Progress


class ProgressLines:
    """A bar for each stage; where the output is no terminal, the bars are printed once, at the end."""

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

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def progress(self, step: Progress) -> None:
        """Show a step of `simulate`."""
        if step.stage not in self.tasks:
            self.tasks[step.stage] = self.bars.add_task(step.stage, total=step.total, detail="")
        self.bars.update(self.tasks[step.stage], completed=step.done, total=step.total, detail=step.detail)

    def prepared(self, site: str, what: str, done: int, total: int) -> None:
        """Show a subject that `prepare` has done."""
        self.progress(Progress(f"prepare {site}", done, total, what))


def score_table(scores: Sequence[Score]) -> None:
    """Print balanced accuracy in percent: a row a target subject, a mean a site, and the mean of the sites."""
    by_target: dict[tuple[str, str, str, int], dict[str, float]] = defaultdict(dict)
    for score in scores:
        by_target[score.site, score.dataset, score.subject, score.n_test][score.method] = score.balanced_accuracy
    if not by_target:
        Console().print("no target subject in this federation: nothing to score")
        return
    table = Table(title="balanced accuracy on held-back trials, percent", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("site", "subject", "n_test", *METHODS):
        table.add_column(column, justify="left" if column in ("site", "subject") else "right", no_wrap=True)
    site_means: dict[str, dict[str, float]] = {}
    for site in dict.fromkeys(key[0] for key in by_target):
        rows = {key: values for key, values in by_target.items() if key[0] == site}
        several = len({key[1] for key in rows}) > 1
        for (_, dataset, subject, n_test), values in rows.items():
            name = f"{dataset} {subject}" if several else subject
            table.add_row(site, name, str(n_test), *(f"{100 * values[m]:.1f}" for m in METHODS))
        site_means[site] = {m: mean(values[m] for values in rows.values()) for m in METHODS}
        table.add_row(site, "mean", "", *(f"{100 * site_means[site][m]:.1f}" for m in METHODS), style="bold")
        table.add_section()
    overall = [mean(means[m] for means in site_means.values()) for m in METHODS]
    table.add_row("all sites", "mean", "", *(f"{100 * value:.1f}" for value in overall), style="bold")
    Console().print(table)
