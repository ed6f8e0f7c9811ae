"""One page of several runs: what they differ in, how they compare, and how training went in each."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from experiments.compare_runs import SUBJECT, Compared, as_frame, compare_runs, rows_of, runs_at, verdict
from experiments.evaluate import METHODS
from experiments.report.page import Figure, Section, TableOf, write_page
from experiments.report.plots import new_figure, write_figure
from experiments.report.run import redacted, report
from federation.run_folder import RunFolder
from federation.tables import flat_keys

WIDTH = 4.2  # inches, as a run's figures
MOST_SUBJECTS = 200
UNTOLD = {"name", "data_root"}  # keys that every run may have of its own


def report_several(paths: Sequence[Path], out: Path) -> Path:
    """Write one page of several runs, each of one seed or of many, and each run's own page.

    Parameters
    ----------
    paths : sequence of Path
        Folders of runs, or of seeds of one.
    out : Path
        The page, HTML; its figures lie beside it, in a folder of its name.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        For a folder without a run or without scores, or two folders of one name.
    """
    rows = rows_of(paths)
    compared, runs = compare_runs(rows), {path.resolve().name: runs_at(path) for path in paths}
    frame = as_frame(compared)
    columns = [(name, "number" if k else "") for k, name in enumerate(frame.columns)]
    table = TableOf(columns, [list(map(str, row)) for row in frame.itertuples(index=False)])
    folder = out.with_name(f"{out.stem}-figures")
    scores = [_scores(compared, folder)]
    words = [
        f"{verdict(compared)}.",
        "Intervals are 95 %, over subjects within sites and over seeds; p is Wilcoxon's, times the comparisons.",
    ]
    sections = [
        Section("Summary", words, [table], scores),
        _differing(runs),
        Section("Rounds", ["A line is a setting: the mean over its sites and seeds."], figures=_curves(runs, folder)),
        _subjects(rows),
        _pages(runs, out),
    ]
    write_page(out, f"{len(runs)} settings: {', '.join(runs)}", "Runs side by side, mfscsn", sections)
    return out


def _scores(compared: Sequence[Compared], folder: Path) -> Figure:
    figure, axes = new_figure("several", WIDTH, 0.35 * len(compared) + 1)
    for k, one in enumerate(compared):
        colour = f"C{[one.method.endswith(method) for method in METHODS].index(True)}"
        axes.plot([one.score.low, one.score.high], [-k, -k], color=colour)
        axes.plot([one.score.mean], [-k], "o", color=colour)
    axes.set_yticks([-k for k in range(len(compared))], [one.method for one in compared], fontsize=8)
    axes.set_xlabel("balanced accuracy, percent (95 %)")
    svg, _ = write_figure(figure, folder, "scores")
    return Figure(svg, "Mean over sites with its 95 % interval.", "Score of each method of each setting")


def _curves(runs: Mapping[str, Sequence[RunFolder]], folder: Path) -> list[Figure]:
    """Draw the mean loss and, where trials were held out, the mean score on those, a line a setting."""
    drawn = []
    for column, what, earlier in (("loss", "training loss", 0), ("held_out", "accuracy, held out", 1)):
        figure, axes = new_figure(f"several-{column}", WIDTH, 3.2)
        for name, seeds in runs.items():
            told = [(int(row["round"]) - earlier, row.get(column)) for run in seeds for row in run.history()]
            known = pd.DataFrame([(n, float(value)) for n, value in told if value], columns=["round", column])
            if len(known):
                mean = known.groupby("round")[column].mean()
                axes.plot(mean.index, mean, label=name)
        if axes.lines:
            axes.set_xlabel("round")
            axes.set_ylabel(what)
            figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
            svg, _ = write_figure(figure, folder, column)
            drawn.append(Figure(svg, f"{what[0].upper()}{what[1:]}, by round.", f"{what} by round"))
    return drawn


def _differing(runs: Mapping[str, Sequence[RunFolder]]) -> Section:
    """List the keys of contract, training and sites in which the settings differ; seeds are none."""
    of_runs = {
        name: flat_keys(redacted(seeds[0]).model_dump(mode="json", exclude=UNTOLD)) for name, seeds in runs.items()
    }
    keys = dict.fromkeys(key for values in of_runs.values() for key in values)
    rows = [
        [key, *(str(values.get(key, "-")) for values in of_runs.values())]
        for key in keys
        if len({str(values.get(key, "-")) for values in of_runs.values()}) > 1 and key != "training.seed"
    ]
    if not rows:
        return Section("Differences", ["The runs differ in their seeds alone."])
    return Section("Differences", tables=[TableOf([("key", ""), *((name, "words") for name in of_runs)], rows)])


def _subjects(rows: pd.DataFrame) -> Section:
    """List each subject's mean over seeds, by method and setting."""
    means = 100 * rows.groupby([*SUBJECT, "method"], sort=False)["balanced_accuracy"].mean().unstack()
    columns = [("site", ""), ("subject", ""), *((str(name), "number") for name in means.columns)]
    several = means.reset_index().groupby("site")["dataset"].nunique().gt(1)
    cells = []
    for (site, dataset, subject), values in zip(means.index.to_list(), means.to_numpy(), strict=True):
        shown = ["-" if value != value else f"{value:.1f}" for value in values]  # NaN: not in that setting
        cells.append([site, f"{dataset} {subject}" if several[site] else subject, *shown])
    words = ["Balanced accuracy, percent, a mean over seeds."]
    if len(cells) > MOST_SUBJECTS:
        words.append(f"Of {len(cells)} subjects, the first {MOST_SUBJECTS} are listed.")
    return Section("Subjects", words, [TableOf(columns, cells[:MOST_SUBJECTS])])


def _pages(runs: Mapping[str, Sequence[RunFolder]], out: Path) -> Section:
    rows = [
        [name, str(run.federation.training.seed), os.path.relpath(report(run), out.parent)]
        for name, seeds in runs.items()
        for run in seeds
    ]
    return Section("Each run", tables=[TableOf([("setting", ""), ("seed", "number"), ("its report", "words")], rows)])
