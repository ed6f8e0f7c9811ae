"""What an audit found, as tables, and score against epsilon as a plot."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.audit.byzantine import ATTACKS, STRATEGIES
from experiments.audit.run import Finding
from experiments.report.plots import new_figure, write_figure

COLUMNS = {  # part, measure -> head of the column
    ("inversion", "correlation"): "trial made anew: correlation",
    ("inversion", "band power"): "band power",
    ("membership", "AUC"): "trained on it? AUC",
    ("subject", "named rightly"): "subject named",
    ("site", "named rightly"): "site named",
    ("labels", "named rightly"): "two labels named",
    ("persons", "person"): "person in it? AUC",
    ("persons", "person, others known"): "the same, all others known",
    ("persons", "site"): "site in it? AUC",
    ("price", "score"): "score",
    ("price", "epsilon"): "epsilon",
}


def print_audit(findings: Sequence[Finding]) -> None:
    """Print what each view gives away and what it costs, then what a Byzantine site does."""
    console = Console(width=200, highlight=False)
    attacks = [finding for finding in findings if finding.part != "byzantine"]
    if attacks:
        console.print(_attacks(attacks))
    bad = [finding for finding in findings if finding.part == "byzantine"]
    if bad:
        console.print(_byzantine(bad))


def _attacks(findings: Sequence[Finding]) -> Table:
    seeds = len({finding.seed for finding in findings})
    table = Table(
        title=f"what an attacker gets from an update; means of {seeds} seed{'s' * (seeds > 1)}, ranges and 95 %"
        " intervals over all of them",
        title_justify="left",
        box=box.MARKDOWN,
    )
    table.add_column("what is seen", no_wrap=True)
    columns = [key for key in COLUMNS if any((f.part, f.measure) == key for f in findings)]
    for key in columns:
        table.add_column(COLUMNS[key], justify="right", no_wrap=True)
    for view in dict.fromkeys(f.view for f in findings):
        cells = [[f for f in findings if (f.part, f.measure) == key and f.view == view] for key in columns]
        table.add_row(view, *map(_cell, cells))
    chances = [next((f.chance for f in findings if (f.part, f.measure) == key), None) for key in columns]
    table.add_row("(chance)", *("" if chance is None else f"{chance:.2f}" for chance in chances))
    return table


def _cell(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    value = mean(f.value for f in findings)
    if findings[0].part == "price":
        return f"{value:.1f}" if findings[0].measure == "score" else f"{value:.3g}"
    low, high = min(f.low or 0.0 for f in findings), max(f.high or 0.0 for f in findings)
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _byzantine(findings: Sequence[Finding]) -> Table:
    seeds = len({finding.seed for finding in findings})
    table = Table(
        title=f"one site is Byzantine: score of the others, percent; mean of {seeds} seed{'s' * (seeds > 1)}",
        title_justify="left",
        box=box.MARKDOWN,
    )
    table.add_column("average")
    for attack in ATTACKS:
        table.add_column(attack, justify="right")
    for strategy in STRATEGIES:
        cells = [[f.value for f in findings if (f.view, f.measure) == (strategy, attack)] for attack in ATTACKS]
        table.add_row(strategy, *(f"{mean(values):.1f}" if values else "" for values in cells))
    return table


def plot_price(findings: Sequence[Finding], folder: Path) -> list[Path]:
    """Draw score against epsilon, a point a noise, with the score without; return the files."""
    figure, axes = new_figure("audit", 6, 4)
    prices = [finding for finding in findings if finding.part == "price"]
    points = []
    for view in dict.fromkeys(f.view for f in prices):
        scores = [f.value for f in prices if f.view == view and f.measure == "score"]
        epsilons = [f.value for f in prices if f.view == view and f.measure == "epsilon"]
        if epsilons:
            points.append((mean(epsilons), mean(scores), min(scores), max(scores), view.partition("noise ")[2]))
        else:
            axes.axhline(mean(scores), color="C1", label="without noise")
            axes.axhspan(min(scores), max(scores), color="C1", alpha=0.2)
    if points:
        x, y, low, high, names = zip(*sorted(points), strict=True)
        spread = [[a - b for a, b in zip(y, low, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
        axes.errorbar(x, y, yerr=spread, marker="o", capsize=3, color="C0", label="with noise (all seeds)")
        for at, score, name in zip(x, y, names, strict=True):
            axes.annotate(f"noise {name}", (at, score), xytext=(4, 6), textcoords="offset points", fontsize="small")
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{epsilon:.3g}" for epsilon in x])
        axes.minorticks_off()
        axes.margins(x=0.15)
    axes.set_xlabel("epsilon of a trial, the largest of all sites (delta 1e-5)")
    axes.set_ylabel("balanced accuracy, percent")
    axes.legend(fontsize="small")
    return write_figure(figure, folder, "audit")
