"""Plots: drawn without a screen, written as SVG and PNG; the same figures give the same file."""

from pathlib import Path
from typing import Any


def new_figure(name: str, width: float, height: float) -> tuple[Any, Any]:
    """Begin a plot of `width` by `height` inches; give matplotlib's figure and axes."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = name
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height))  # type: ignore[no-any-return]


def write_figure(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write a plot as SVG and PNG into a folder; give the files."""
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    files = [folder / f"{name}.{kind}" for kind in ("svg", "png")]
    for file in files:
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)
    return files
