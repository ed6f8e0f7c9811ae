"""What a person sees of BEETL in the terminal: scores, checked files, settings that were tried. Drawn by rich."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.beetl.check import CompetitionCheck
from experiments.beetl.score import BeetlScore, Gain
from experiments.beetl.tune import Tried


def beetl_score_table(score: BeetlScore, title: str) -> None:
    """Print a BEETL score: the whole, the data sets, and every subject with the recall of each class."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(title, markup=False)
    console.print(
        "BEETL motor imagery, percent: score, its 95 % interval over trials (bootstrap), and\nhow many"
        " trials of each code were found; chance is 33.33"
    )
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "score", "interval", "code 0", "code 1", "code 2"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    recalls = [f"{c.percent:.0f}" for c in score.classes]
    table.add_row("total", f"{score.total:.2f}", _interval(score.interval), *recalls, style="bold")
    table.add_section()
    for parts in (score.datasets, score.subjects):
        for part in parts:
            classes = [f"{c.name} {c.percent:.0f}" for c in part.classes]
            table.add_row(part.name, f"{part.score:.2f}", _interval(part.interval), *classes)
        table.add_section()
    console.print(table)


def gain_line(gain: Gain, other: str) -> None:
    """Print how much better an answer is than another one."""
    Console(soft_wrap=True, highlight=False).print(
        f"minus {other}: {gain.points:+.2f} points, 95 % interval {gain.interval[0]:+.1f} to {gain.interval[1]:+.1f}"
        " (paired over trials)",
        markup=False,
    )


def check_table(check: CompetitionCheck) -> None:
    """Print what was found in the competition's files, and what mu power says of A's codes."""
    console = Console(soft_wrap=True, highlight=False)
    sums = f"all {check.n_sums} files as SHA256SUMS lists them" if check.n_sums else "no SHA256SUMS beside the files"
    labels = f"labels of the final phase: {check.n_labels}" if check.n_labels else "no labels of the final phase"
    console.print(f"{check.root}, {check.phase} phase: every file is there, of the right shape and scale", markup=False)
    console.print(f"{sums}; {labels}")
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "labelled", "test", "unit", "deviation", "of codes 0 to 3"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    for s in check.subjects:
        counts = "  ".join(str(n) for n in s.counts)
        table.add_row(
            f"{s.target} {s.subject}", str(s.n_labelled), str(s.n_test), s.unit, f"{s.amplitude:.1f} µV", counts
        )
    console.print(table)
    console.print("deviation: median over trials and channels, as the signals are read")
    console.print(
        "\nMu power (8 to 13 Hz) of A's labelled trials against the subject's mean, dB, by code.\n"
        "Imagery of a hand lowers it on the far side: C3 minus C4 should be highest for the\n"
        "left hand, lowest for the right one; ± 95 % interval over trials."
    )
    table = Table(box=box.SIMPLE_HEAD)
    subjects = [s.subject for s in check.subjects if s.target == "A"]
    for column in ("code", "published as", "C3", "C4", "C3 minus C4", *subjects):
        table.add_column(column, justify="left" if column == "published as" else "right", no_wrap=True)
    for c in check.codes:
        table.add_row(
            str(c.code),
            c.meaning,
            f"{c.c3:+.1f}",
            f"{c.c4:+.1f}",
            f"{c.lateral:+.2f} ± {1.96 * c.lateral_error:.2f}",
            *("" if lateral is None else f"{lateral:+.1f}" for lateral in c.of_subjects),
        )
    console.print(table)
    if not check.codes:
        return
    left, right = (chosen(check.codes, key=lambda c: c.lateral) for chosen in (max, min))
    console.print(
        f"most like the left hand: code {left.code} (published as {left.meaning})\n"
        f"most like the right hand: code {right.code} (published as {right.meaning})"
    )


def tune_table(tried: Sequence[Tried]) -> None:
    """Print the settings that were tried, best first."""
    table = Table(title="score on labelled trials left out, percent", title_justify="left", box=box.SIMPLE_HEAD)
    names = list(tried[0].settings)
    for column in (*names, "score", "in each fold"):
        table.add_column(column, no_wrap=True)
    for t in tried:
        folds = " ".join(f"{fold:.1f}" for fold in t.folds)
        table.add_row(*(str(t.settings[name]) for name in names), f"{t.score:.2f}", folds)
    Console(soft_wrap=True, highlight=False).print(table)


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"
