"""Plots: drawn without a screen, written as SVG and PNG; the same figures give the same file."""

from pathlib import Path
from typing import Any


def new_figure(name: str, width: float, height: float) -> tuple[Any, Any]:
    """Begin a plot of `width` by `height` inches; return matplotlib's figure and axes."""
    figure, axes = new_grid(name, width, height, 1, 1)
    return figure, axes[0, 0]


def new_grid(name: str, width: float, height: float, n_rows: int, n_columns: int) -> tuple[Any, Any]:
    """Begin a plot of several axes; return matplotlib's figure and its axes as an array ``(n_rows, n_columns)``."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = name
    from matplotlib import pyplot

    figure_and_axes = pyplot.subplots(n_rows, n_columns, figsize=(width, height), squeeze=False, layout="constrained")
    return figure_and_axes  # type: ignore[no-any-return]


def write_figure(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write a plot as SVG and PNG into a folder; return the files."""
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{kind}" for kind in ("svg", "png")]
    for file in files:
        figure.savefig(
            file,
            dpi=150,
            bbox_inches="tight",
            pad_inches=0.05,
            metadata={"Date": None} if file.suffix == ".svg" else None,
        )
    pyplot.close(figure)
    return files
