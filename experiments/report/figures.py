"""The figures of a report, drawn from tables and arrays; each is written as SVG and PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.evaluate import METHODS
from experiments.report.page import Figure
from experiments.report.plots import new_figure, new_grid, write_figure
from experiments.report.scores import ScoreDraws
from mfscsn.patterns import BANDS, FilterPattern, frequencies

WIDTH = 4.2  # inches: as wide as a phone shows without shrinking letters much
MARKS = dict(zip(METHODS, ("o", "s", "D"), strict=True))


def gains(draws: ScoreDraws, folder: Path) -> Figure:
    """Draw each target subject's scores with their intervals, and a line from the site alone to the federation."""
    keys = list(draws.of_subject)
    several = len({key[1] for key in keys}) > len({key[0] for key in keys})
    figure, axes = new_figure("gains", WIDTH, 0.4 * len(keys) + 1.3)
    for k, key in enumerate(keys):
        axes.plot([draws.chance([key])] * 2, [-k - 0.4, -k + 0.4], color="0.6", linewidth=1)
        places = {}
        for method, colour, up in zip(METHODS, ("C1", "C0", "C2"), (0.25, 0.0, -0.25), strict=True):
            one, label = draws.of([key], method), method if k == 0 else None
            axes.plot([one.low, one.high], [up - k] * 2, color=colour, alpha=0.35, linewidth=3, solid_capstyle="butt")
            axes.plot(one.mean, up - k, MARKS[method], color=colour, markersize=5, label=label)
            places[method] = (one.mean, up - k)
        (x, y), (to_x, to_y) = places[METHODS[1]], places[METHODS[2]]
        axes.plot([x, to_x], [y, to_y], color="0.4", linewidth=0.8, linestyle="-" if to_x >= x else ":")
    names = [" ".join(key if several else (key[0], key[2])) for key in keys]
    axes.set_yticks([-k for k in range(len(keys))], names, fontsize=8)
    axes.set_ylim(-len(keys) + 0.4, 0.6)
    axes.set_xlabel("balanced accuracy, percent")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False, columnspacing=1, handletextpad=0.2)
    return _keep(
        figure,
        folder,
        "gains",
        "Each target subject, by method. Bars are 95 % over test trials, the grey stroke is chance; the line from"
        f" {METHODS[1]} to {METHODS[2]} is dotted where joining lost.",
        "Scores of each target subject by method",
    )


def curves(history: pd.DataFrame, column: str, what: str, folder: Path) -> Figure | None:
    """Draw a column of ``history.csv`` by round, a line a site; None where no site let it out."""
    known = history.dropna(subset=[column])
    if known.empty:
        return None
    figure, axes = new_figure(column, WIDTH, 3.2)
    earlier = 1 if column == "held_out" else 0  # that is of the average of the round before
    for site, rows in known.groupby("site", sort=False):
        axes.plot(rows["round"] - earlier, rows[column], label=site, marker="." if len(rows) < 3 else "")
    axes.set_xlabel("round")
    axes.set_ylabel(what)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if known["site"].nunique() <= 12:
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return _keep(
        figure, folder, f"rounds-{column}", f"{what[0].upper()}{what[1:]}, by round and site.", f"{what} by round"
    )


def confusion(rows: pd.DataFrame, labels: Sequence[str], site: str, name: str, folder: Path) -> Figure:
    """Draw what the federation's network took each label for, in percent of the label's test trials."""
    known = pd.Index(labels)
    counts = pd.crosstab(rows["label"], rows["predicted"]).reindex(index=known, columns=known, fill_value=0)
    counts = counts.loc[counts.sum(axis=1) > 0]
    share = counts.div(counts.sum(axis=1), axis=0).to_numpy() * 100
    figure, axes = new_figure(f"confusion-{site}-{name}", WIDTH, 0.55 * len(counts) + 1.5)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for i, j in np.ndindex(share.shape):
        axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", color="white" if share[i, j] > 60 else "black")
    axes.set_xticks(range(len(labels)), labels, fontsize=8, rotation=20)
    axes.set_yticks(range(len(counts)), [f"{n} ({counts.loc[n].sum()})" for n in counts.index], fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    caption = f"Site {site}, {name}: percent of each label's test trials (how many), over its target subjects."
    return _keep(figure, folder, f"confusion-{site}-{name}", caption, f"Confusion matrix of site {site}, {name}")


def label_maps(
    patterns: NDArray[np.float64],
    channels: Sequence[str],
    labels: Sequence[str],
    n_trials: int,
    site: str,
    name: str,
    folder: Path,
) -> Figure | None:
    """Draw patterns ``(n_outputs, n_bands, n_chans)`` as maps of the head; None where too few electrodes are known."""
    known, info = _positions(channels)
    if info is None:
        return None
    limit = float(np.abs(patterns).max()) or 1.0
    figure, axes = new_grid(f"patterns-{site}-{name}", WIDTH, 1.55 * len(labels) + 0.7, len(labels), len(BANDS))
    for i, label in enumerate(labels):
        for j, band in enumerate(BANDS):
            image = _map(patterns[i, j, known], info, axes[i, j], limit)
            if i == 0:
                axes[i, j].set_title(band, fontsize=9)
        axes[i, 0].set_ylabel(label, fontsize=9)
    bar = figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.6, fraction=0.04)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("dB", fontsize=8)
    caption = (
        f"Site {site}, {name}: how band power over the head changes with one standard deviation of each output"
        f" (Haufe's patterns; {n_trials} trials, {_electrodes(known, channels)})."
    )
    return _keep(figure, folder, f"patterns-{site}-{name}", caption, f"Spatial patterns of site {site}, {name}")


def filter_maps(
    patterns: Sequence[FilterPattern],
    channels: Sequence[str],
    sfreq: float,
    upper: float,
    site: str,
    name: str,
    folder: Path,
) -> Figure | None:
    """Draw each filter's pattern, and its frequency response below it; None where too few electrodes are known."""
    known, info = _positions(channels)
    if info is None or not patterns:
        return None
    figure, axes = new_grid(f"filters-{site}-{name}", WIDTH, 3.0, 2, len(patterns))
    for j, one in enumerate(patterns):
        values = one.pattern[known]
        _map(values, info, axes[0, j], float(np.abs(values).max()) or 1.0)
        axes[0, j].set_title(f"filter {one.number}", fontsize=8)
        axes[1, j].plot(frequencies(sfreq, upper), one.response, linewidth=1)
        axes[1, j].set_ylim(0, 1.05)
        axes[1, j].tick_params(labelsize=7, labelleft=j == 0)
        axes[1, j].set_xlabel("Hz", fontsize=8)
    axes[1, 0].set_ylabel("gain", fontsize=8)
    caption = (
        f"Site {site}, {name}: the filters that move the common layers most. Above, their patterns (Haufe; each at its"
        f" own scale; {_electrodes(known, channels)}); below, their frequency responses, the highest being 1."
    )
    return _keep(figure, folder, f"filters-{site}-{name}", caption, f"Filters of site {site}, {name}")


def calibration_curve(rows: pd.DataFrame, folder: Path) -> Figure:
    """Draw the mean over target subjects by the number of calibration trials, a line a method."""
    figure, axes = new_figure("calibration", WIDTH, 2.9)
    for method, of_method in rows.groupby("method", sort=False):
        points = 100 * of_method.groupby(["n_calibration", "seed"])["balanced_accuracy"].mean().unstack()
        axes.plot(points.index, points.mean(axis=1), marker="o", label=method)
        axes.fill_between(points.index, points.min(axis=1), points.max(axis=1), alpha=0.15)
    axes.set_xticks(sorted(rows["n_calibration"].unique()))
    axes.set_xlabel("calibration trials of a subject")
    axes.set_ylabel("balanced accuracy, percent")
    axes.legend(fontsize=8, frameon=False)
    caption = (
        "Mean over target subjects and seeds on the same test trials, by how many calibration trials trained; the shade"
        " is from the lowest seed to the highest."
    )
    return _keep(figure, folder, "calibration", caption, "Score by number of calibration trials")


def _keep(figure: Any, folder: Path, name: str, caption: str, alt: str) -> Figure:
    svg, _ = write_figure(figure, folder, name)
    return Figure(svg, caption, alt)


def _map(values: NDArray[np.float64], info: Any, axes: Any, limit: float) -> Any:
    import mne

    image, _ = mne.viz.plot_topomap(
        values, info, axes=axes, show=False, cmap="RdBu_r", vlim=(-limit, limit), contours=0, sensors="k.", res=48
    )
    return image


def _positions(channels: Sequence[str]) -> tuple[list[int], Any]:
    """Find the electrodes whose place on the head is known by name; fewer than four make no map."""
    import mne

    names = {name.lower(): name for name in mne.channels.make_standard_montage("colin27_1005").ch_names}
    known = [k for k, name in enumerate(channels) if name.lower() in names]
    if len(known) < 4:
        return known, None
    info = mne.create_info([names[channels[k].lower()] for k in known], 1.0, "eeg")
    return known, info.set_montage("colin27_1005")


def _electrodes(known: Sequence[int], channels: Sequence[str]) -> str:
    left_out = [name for k, name in enumerate(channels) if k not in known]
    return f"{len(known)} electrodes" + (f", without {', '.join(left_out)}" if left_out else "")
