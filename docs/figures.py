"""Draw again what README.md and the documentation show of the benchmarks, from the kept results: `make figures`."""

import shutil
import subprocess
import sys
from pathlib import Path

from experiments.benchmark.run import chosen_rows, load_bench, read_results
from experiments.benchmark.show import estimate

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES = ROOT / "experiments" / "benchmark" / "results", ROOT / "docs" / "images"
SHOWN = ("openmi.svg", "calibration.svg", "openmi-five-price.svg")
BEGIN, END = "<!-- written by `make figures` -->\n", "<!-- end -->\n"
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


if __name__ == "__main__":
    for bench in ("openmi", "calibration", "subjects", "new-site"):
        toml = f"experiments/benchmark/{bench}.toml"
        subprocess.run([Path(sys.executable).with_name("mfscsn"), "benchmark", toml], cwd=ROOT, check=True)
    for name in SHOWN:
        shutil.copyfile(RESULTS / name, IMAGES / name)
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text()))
