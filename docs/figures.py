"""Draw again what README.md and the documentation show of the benchmarks, from the kept results: `make figures`."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.benchmark.compare import estimate
from experiments.benchmark.run import chosen_rows, load_bench, read_results
from experiments.benchmark.show import print_benchmark
from mfscsn.common_space import ELECTRODES, positions

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES = ROOT / "experiments" / "benchmark" / "results", ROOT / "docs" / "images"
SHOWN = ("centres.svg", "openmi.svg", "openmi-five-price.svg")
BENCHES = (
    *(
        "centres",
        "centres-no-label",
        "centres-unseen",
        "centres-of-three",
        "centres-tasks",
        "centres-one-message",
        "centres-causal",
    ),
    *("openmi", "subjects", "new-site"),
)
PAGES = ("README.md", "docs/centres.md", "docs/benchmark.md", "docs/one-message.md", "docs/online.md")
HEADSETS = {
    "3 channels": ("C3", "Cz", "C4"),
    "8 channels": ("FC3", "FC4", "C3", "Cz", "C4", "CP3", "CPz", "CP4"),
    "19 channels": (
        *("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8"),
        *("P7", "P3", "Pz", "P4", "P8", "O1", "O2"),
    ),
}
# What stands in a document behind a line that names the benchmark; with the table of subjects where it says so
PRINTED = re.compile(r"<!-- prints: (\S+?)( with subjects)? -->\n```\n.*?```\n", re.S)
SUBJECTS = "joining, a subject at a time"
# README's tables: some rows of a benchmark, and what they are
ROWS = re.compile(r"<!-- rows: (\S+) -->\n.*?<!-- end -->\n", re.S)
METHODS = {
    "centres-of-three": {
        "own-adaptive": ": a subject's own 15 trials",
        "site-weighted-adaptive": ": a linear classifier on the site's three subjects",
        "mf-scsn-unshared": ": the same network, nothing shared",
        "site-averaged": ": the mean of those two, the strongest unshared",
        "mf-scsn": "",
    },
    "centres": {
        "own-filter-bank-tangent-space": ": a subject's own 15 trials, pyRiemann",
        "site-weighted-adaptive": ": a linear classifier on one site's subjects, own headset",
        "mf-scsn-unshared": ": the same network, nothing shared",
        "site-averaged": ": the mean of those two, the strongest unshared",
        "mf-scsn": "",
    },
    "openmi": {
        "fedavg": "",
        "own-shallow": ": ShallowConvNet, a subject's own calibration",
        "own-filter-bank-tangent-space": ": the same trials, pyRiemann",
        "mf-scsn-riemann": ": the paper's form of sharing",
        "mf-scsn-unshared": ": the same sites, nothing shared",
        "mf-scsn": "",
        "site-weighted-adaptive": ": logistic regression on one site's subjects",
    },
}


def kept_rows(name: str) -> tuple[pd.DataFrame, list[int]]:
    """Return the kept rows of a benchmark, and the folds that were searched on."""
    bench = ROOT / "experiments" / "benchmark" / f"{name}.toml"
    plan, _, made_with = load_bench(bench)
    rows = chosen_rows(plan, read_results(RESULTS / f"{name}.csv", {**made_with, "shuffled_labels": None}))
    return rows, plan.searched


def printed(name: str, subjects: bool) -> str:
    """Return what `mfscsn benchmark` prints of kept results; the table of subjects where it is wanted."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        rows, searched = kept_rows(name)
        print_benchmark(rows, name, searched)
    lines, skipped = [], False
    for line in map(str.rstrip, out.getvalue().splitlines()):
        skipped = line.startswith(SUBJECTS) or (skipped and (not line or line.startswith("|")))
        if (subjects or not skipped) and (line or (lines and lines[-1])):
            lines.append(line)
    return "\n".join(lines).strip("\n")


def with_printed(text: str) -> str:
    """Return a document's text with what the benchmarks print in its places."""

    def anew(found: re.Match[str]) -> str:
        name, subjects = found[1], found[2] or ""
        return f"<!-- prints: {name}{subjects} -->\n```\n{printed(name, bool(subjects))}\n```\n"

    return PRINTED.sub(anew, text)


def with_rows(text: str) -> str:
    """Return a page's text with its tables of benchmarks in their places."""

    def anew(found: re.Match[str]) -> str:
        name = found[1]
        rows, searched = kept_rows(name)
        parts = {"balanced accuracy, percent (95 %)": rows}
        if searched:
            parts["folds that no setting was searched on"] = rows[~rows["fold"].isin(searched)]
        cells = [
            [f"`{method}`{words}", *(str(estimate(part, method)) for part in parts.values())]
            for method, words in METHODS[name].items()
        ]
        table = [["method", *parts], ["---"] * (1 + len(parts)), *cells]
        lines = ["|" + "|".join(row) + "|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in table]
        return "\n".join([f"<!-- rows: {name} -->", *lines, "<!-- end -->", ""])

    return ROWS.sub(anew, text)


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
    for bench in BENCHES:
        toml = f"experiments/benchmark/{bench}.toml"
        subprocess.run([Path(sys.executable).with_name("mfscsn"), "report", toml], cwd=ROOT, check=True)
    for name in SHOWN:
        shutil.copyfile(RESULTS / name, IMAGES / name)
    for page in PAGES:
        (ROOT / page).write_text(with_rows(with_printed((ROOT / page).read_text())))
