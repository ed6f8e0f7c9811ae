"""Draw again what README.md and the documentation show of the benchmarks, from the kept results: `make figures`."""

import contextlib
import inspect
import io
import json
import re
import shutil
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from pydantic_core import PydanticUndefined

from experiments.benchmark.compare import estimate
from experiments.benchmark.laboratories import print_laboratories
from experiments.benchmark.run import Bench, chosen_rows, load_bench, read_results
from experiments.benchmark.show import print_benchmark
from experiments.cli.main import app
from experiments.cli.show import speed_row, speed_title
from experiments.speed.run import Row
from federation.contract import Contract, Dataset, Federation, Part, Privacy, Site, Training
from mfscsn.common_space import ELECTRODES, positions

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES = ROOT / "experiments" / "benchmark" / "results", ROOT / "docs" / "images"
SPEEDS = ROOT / "experiments" / "speed" / "results"
SHOWN = ("centres.svg", "labs-graz.svg", "openmi.svg", "openmi-five-price.svg")
BENCHES = (
    *(
        "centres",
        "centres-no-label",
        "centres-calibration",
        "centres-unseen",
        "centres-of-three",
        "centres-tasks",
        "centres-one-message",
        "centres-causal",
        "fair",
        "fair-tasks",
    ),
    *("labs", "openmi", "subjects", "new-site"),
)
PAGES = (
    "README.md",
    "docs/centres.md",
    "docs/laboratories.md",
    "docs/benchmark.md",
    "docs/one-message.md",
    "docs/online.md",
)
# Keys of a FED.toml and commands, from the code
FROM_CODE = re.compile(r"<!-- (keys|commands) -->\n.*?<!-- end -->\n", re.S)
CODE_PAGES = ("docs/federation-file.md", "docs/commands.md")
TABLES = {
    "the file": Federation,
    "[contract]": Contract,
    "[training]": Training,
    "[[site]]": Site,
    "[[site.dataset]]": Dataset,
    "calibration, test": Part,
    "[site.privacy]": Privacy,
}
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
# What `mfscsn speed --json` has kept: as it printed it, or the ratios of two runs beside each other
SPEED = re.compile(r"<!-- speed: (\S+) -->\n```\n.*?```\n", re.S)
RATIOS = re.compile(r"<!-- ratios: (\S+) (\S+) -->\n.*?<!-- end -->\n", re.S)
SPEED_PAGES = ("docs/performance.md", "docs/online.md")
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
        "site-averaged": ": the mean of that and the unshared network, the strongest unshared",
        "mf-scsn-experts": ": the federated network and linear decoder, and the site's own",
    },
}

INTERVAL = re.compile(r"([+-]?\d+\.\d) \(([+-]?\d+\.\d) to ([+-]?\d+\.\d)")


def kept_rows(name: str) -> tuple[pd.DataFrame, Bench]:
    """Return the kept rows of a benchmark, and its plan."""
    bench = ROOT / "experiments" / "benchmark" / f"{name}.toml"
    plan, _, made_with = load_bench(bench)
    rows = chosen_rows(plan, read_results(RESULTS / f"{name}.csv", {**made_with, "shuffled_labels": None}))
    return rows, plan


def printed(name: str, subjects: bool) -> str:
    """Return what `mfscsn benchmark` prints of kept results; the table of subjects where it is wanted."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        rows, plan = kept_rows(name)
        if plan.laboratories is None:
            print_benchmark(rows, name, plan.searched)
        else:
            print_laboratories(rows, plan.laboratories)
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
        rows, plan = kept_rows(name)
        parts = {"balanced accuracy, percent (95 %)": rows}
        if plan.searched:
            parts["folds that no setting was searched on"] = rows[~rows["fold"].isin(plan.searched)]
        cells = [
            [f"`{method}`{words}", *(str(estimate(part, method)) for part in parts.values())]
            for method, words in METHODS[name].items()
        ]
        table = [["method", *parts], ["---"] * (1 + len(parts)), *cells]
        lines = ["|" + "|".join(row) + "|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in table]
        return "\n".join([f"<!-- rows: {name} -->", *lines, "<!-- end -->", ""])

    return ROWS.sub(anew, text)


def with_speed(text: str) -> str:
    """Return a page's text with the kept measurements of speed in their places."""

    def anew(found: re.Match[str]) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            speed_title()
            for row in measured(found[1]):
                speed_row(row)
        return f"<!-- speed: {found[1]} -->\n```\n{out.getvalue()}```\n"

    def beside(found: re.Match[str]) -> str:
        alone, loaded = ({(row.what, row.against): row.ratio for row in measured(name)} for name in found.groups())
        lines = ["| ratio | alone | beside other work | change |", "|---|---|---|---|"]
        for key, then in loaded.items():
            if then is not None and (ratio := alone[key]) is not None:
                lines.append(f"| {', '.join(key)} | {ratio:.3g} | {then:.3g} | {100 * (then / ratio - 1):+.0f} % |")
        return "\n".join([f"<!-- ratios: {found[1]} {found[2]} -->", *lines, "<!-- end -->", ""])

    return RATIOS.sub(beside, SPEED.sub(anew, text))


def measured(name: str) -> list[Row]:
    """Return the kept measurements of a name."""
    return [Row(**row) for row in json.loads((SPEEDS / f"{name}.json").read_text())]


def intervals(text: str) -> list[tuple[float, ...]]:
    """Find the numbers of all that is of the form "+1.2 (-0.3 to +2.7)" in a text, also across lines."""
    return [tuple(map(float, found)) for found in INTERVAL.findall(re.sub(r"\s+", " ", text))]


def unprinted() -> list[str]:
    """List the intervals within sentences that no benchmark prints of its kept results, a line each; signs may turn."""
    known = {found for name in BENCHES for found in intervals(printed(name, True))}
    known |= {(-mean, -high, -low) for mean, low, high in known}
    lines = []
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]):
        sentences = ROWS.sub("", re.sub(r"```.*?```", "", page.read_text(), flags=re.S))
        lines += [
            f"{page.relative_to(ROOT)}: {mean} ({low} to {high})"
            for mean, low, high in intervals(sentences)
            if (mean, low, high) not in known
        ]
    return lines


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


def with_code(text: str) -> str:
    """Return a page's text with the keys or commands of the code in their places."""

    def anew(found: re.Match[str]) -> str:
        shown = keys() if found[1] == "keys" else commands()
        return f"<!-- {found[1]} -->\n{shown.strip()}\n<!-- end -->\n"

    return FROM_CODE.sub(anew, text)


def keys() -> str:
    """Return tables of every key of a FED.toml: what it takes, and its default; then what the code says of them."""
    parts = []
    for title, model in TABLES.items():
        rows = []
        for name, field in model.model_fields.items():
            if field.default is not PydanticUndefined:
                default = "" if field.default is None else repr(field.default)
            elif isinstance(field.default_factory, type):
                default = "its keys' own"
            elif field.default_factory is not None:
                default = "follows from others"
            else:
                default = "must be given"
            kind = _kind(field.annotation).replace("|", "\\|")
            rows.append(f"| `{name}` | {kind} | {default} |")
        parts += [f"### {title}", "", "| key | takes | default |", "|---|---|---|", *rows, "", _described(model), ""]
    return "\n".join(parts)


def _kind(annotation: Any) -> str:
    """Write a type as a person would."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(inner[0])
    if origin is typing.Literal:
        return " or ".join(f'`"{word}"`' for word in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(one) for one in inner if one is not types.NoneType)
    if origin is list:
        return f"list of {_kind(inner[0])}"
    if origin in (tuple, dict):
        return "two numbers" if origin is tuple else "a table"
    named = {str: "text", int: "a whole number", float: "a number", bool: "`true` or `false`"}
    return named.get(annotation, "a table")


def _described(model: type) -> str:
    """Return the parameters of a numpydoc docstring as a list."""
    lines = inspect.cleandoc(model.__doc__ or "").splitlines()
    if "Parameters" not in lines:
        return "\n".join(lines).strip()
    at, items = lines.index("Parameters"), []
    for line in lines[at + 2 :]:
        if line and not line.startswith(" "):
            items.append(f"- **{line.partition(' : ')[0]}**:")
        elif line.strip() and items:
            items[-1] += f" {line.strip()}"
    return "\n".join(["\n".join(lines[:at]).strip(), "", *items])


def commands() -> str:
    """Return every command's help as text, by group."""
    group = typer.main.get_command(app)
    return "\n".join(_of_group(group, ("mfscsn",)))


def _of_group(group: Any, path: tuple[str, ...]) -> list[str]:
    lines = []
    for name, command in group.commands.items():
        where = (*path, name)
        if hasattr(command, "commands"):
            lines += _of_group(command, where)
            continue
        lines += [f"### {' '.join(where)}", "", (command.help or "").strip(), ""]
        rows = [
            f"| `{' '.join(option.opts) or option.name}` | {_cell(getattr(option, 'help', None))} |"
            for option in command.params
            if option.name != "help"
        ]
        if rows:
            lines += ["| takes | |", "|---|---|", *rows, ""]
        if command.epilog:
            lines += [f"`{command.epilog.removeprefix('Example: ')}`", ""]
    return lines


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", (text or "").replace("\\[", "[").replace("|", "\\|")).replace("{", "&#123;")


if __name__ == "__main__":
    draw_common_space(IMAGES / "common-space.svg")
    for bench in BENCHES:
        toml = f"experiments/benchmark/{bench}.toml"
        subprocess.run([Path(sys.executable).with_name("mfscsn"), "report", toml], cwd=ROOT, check=True)
    for name in SHOWN:
        shutil.copyfile(RESULTS / name, IMAGES / name)
    for page in CODE_PAGES:
        (ROOT / page).write_text(with_code((ROOT / page).read_text()))
    for page in PAGES:
        (ROOT / page).write_text(with_rows(with_printed((ROOT / page).read_text())))
    for page in SPEED_PAGES:
        (ROOT / page).write_text(with_speed((ROOT / page).read_text()))
    for line in unprinted():
        print(f"within a sentence, and printed by no benchmark: {line}")
