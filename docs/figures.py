"""Draw again what README.md and the documentation show of the benchmarks, from the kept results: `make figures`."""

import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.benchmark.compare import estimate
from experiments.benchmark.run import chosen_rows, load_bench, read_results
from mfscsn.common_space import ELECTRODES, positions

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES = ROOT / "experiments" / "benchmark" / "results", ROOT / "docs" / "images"
SHOWN = ("centres.svg", "openmi.svg", "calibration.svg", "openmi-five-price.svg")
BEGIN, END = "<!-- written by `make figures` -->\n", "<!-- end -->\n"
HEADSETS = {
    "3 channels": ("C3", "Cz", "C4"),
    "8 channels": ("FC3", "FC4", "C3", "Cz", "C4", "CP3", "CPz", "CP4"),
    "19 channels": (
        *("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8"),
        *("P7", "P3", "Pz", "P4", "P8", "O1", "O2"),
    ),
}
METHODS = {
    "fedavg": "",
    "own-shallow": ": ShallowConvNet, a subject's own calibration",
    "own-filter-bank-tangent-space": ": the same trials, pyRiemann",
    "mf-scsn": "",
    "mf-scsn-unshared": ": the same sites, nothing shared",
    "site-weighted-adaptive": ": logistic regression on one site's subjects",
}


def readme_table() -> str:
    """Return the README's table of the openmi benchmark."""
    bench = ROOT / "experiments" / "benchmark" / "openmi.toml"
    plan, _, made_with = load_bench(bench)
    rows = chosen_rows(plan, read_results(RESULTS / "openmi.csv", {**made_with, "shuffled_labels": None}))
    lines = [f"| `{name}`{words} | {estimate(rows, name)} |" for name, words in METHODS.items()]
    return "\n".join(["| method | balanced accuracy, percent (95 %) |", "|---|---|", *lines, ""])


def with_table(text: str) -> str:
    """Return the README's text with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"README.md: the lines {BEGIN.strip()!r} and {END.strip()!r} are not both there")
    return f"{before}{BEGIN}{readme_table()}{END}{after}"


def draw_common_space(path: Path) -> None:
    """Draw three headsets, and the common space with what each of them sees of it."""
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.8))
    there = ELECTRODES["motor21"]
    for axis, (title, names) in zip(axes, [*HEADSETS.items(), ("common space", there)], strict=True):
        places = positions(names)
        flat = places[:, :2] * (np.arccos(places[:, 2]) / np.linalg.norm(places[:, :2], axis=1).clip(1e-9))[:, None]
        axis.add_patch(plt.Circle((0, 0), 2.0, fill=False, color="0.5"))
        axis.plot([-0.2, 0, 0.2], [2.0, 2.3, 2.0], color="0.5")
        axis.scatter(*flat.T, s=14, color="C3" if names is there else "C0")
        axis.set(title=title, xlim=(-2.4, 2.4), ylim=(-2.4, 2.6), aspect="equal")
        axis.axis("off")
    for at, sign in ((0.315, "or"), (0.51, "or"), (0.705, "\u2192")):
        figure.text(at, 0.45, sign, ha="center", fontsize=14, color="0.4")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw_common_space(IMAGES / "common-space.svg")
    for bench in ("centres", "centres-no-label", "openmi", "calibration", "subjects", "new-site"):
        toml = f"experiments/benchmark/{bench}.toml"
        subprocess.run([Path(sys.executable).with_name("mfscsn"), "benchmark", toml], cwd=ROOT, check=True)
    for name in SHOWN:
        shutil.copyfile(RESULTS / name, IMAGES / name)
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text()))
