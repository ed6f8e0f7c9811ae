"""`mfscsn compare`: the table of a paper, of one run or of several, each of one seed or of many."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from data.errors import InputError
from experiments.benchmark.compare import estimate, paired
from experiments.evaluate import METHODS
from experiments.statistics import Estimate
from federation.run_folder import RunFolder

SUBJECT = ["site", "dataset", "subject"]
FEWEST = 6  # subjects: of fewer, no test and no size of an effect tells anything
FORMULA = ("=", "+", "-", "@", "\t")
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
})  # fmt: skip
MEASURES = ("accuracy", "kappa", "auc")


@dataclass(frozen=True)
class Compared:
    """One method of one setting.

    Parameters
    ----------
    method : str
        Behind the setting's name, where there are several.
    n_subjects, n_seeds : int
    score : Estimate
        Balanced accuracy in percent, 95 % over subjects within sites and over seeds.
    accuracy, kappa, auc : float
        Means over subjects, 0 to 1 (kappa to -1); NaN where an older version kept none.
    gain : Estimate, optional
        Points over the method that it is compared with, paired over subjects; None for that one.
    effect : float, optional
        Cohen's d of the paired differences: their mean over their deviation (Cohen 1988; "dz" of Lakens 2013,
        Frontiers in Psychology 4:863).
    p : float, optional
        Of the two-sided Wilcoxon signed-rank test, times the number of comparisons (Bonferroni), at most 1; None with
        fewer than six subjects.
    """

    method: str
    n_subjects: int
    n_seeds: int
    score: Estimate
    accuracy: float
    kappa: float
    auc: float
    gain: Estimate | None
    effect: float | None
    p: float | None


def runs_at(path: Path) -> list[RunFolder]:
    """Open a run or, where a folder holds seeds of one, all of them in order; raise InputError when there is none."""
    if (path / "federation.toml").is_file():
        return [RunFolder(path)]
    seeds = sorted(path.glob("seed-*/federation.toml"), key=lambda file: int(file.parent.name.partition("-")[2]))
    return [RunFolder(file.parent) for file in seeds] or [RunFolder(path)]


def rows_of(paths: Sequence[Path]) -> pd.DataFrame:
    """Read the scores of runs, a row a method, subject and seed; raise InputError for one without scores.

    With several settings, a method's name begins with the run's folder. Two runs of one folder's name are refused.
    """
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        raise InputError(f"the folders' names tell settings apart, and {sorted(names)} do not differ; rename one")
    parts = []
    for path, name in zip(paths, names, strict=True):
        for run in runs_at(path):
            file = run.path / "scores.csv"
            if not file.exists():
                raise InputError(f"{run.path}: no scores.csv; finish it with --resume, or `mfscsn evaluate` it")
            rows = pd.read_csv(file, dtype=dict.fromkeys(SUBJECT, str))
            missing = {"method", "seed", "balanced_accuracy", *SUBJECT} - set(rows)
            if missing:
                named = ", ".join(sorted(missing))
                raise InputError(f"{file}: has no column {named}; `mfscsn evaluate` writes it again")
            if len(paths) > 1:
                rows["method"] = name + ": " + rows["method"]
            parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def compare_runs(rows: pd.DataFrame, against: str | None = None) -> list[Compared]:
    """Compare methods with one of them.

    Parameters
    ----------
    rows : DataFrame
        As `rows_of`.
    against : str, optional
        A method; the first setting's `local-site`, the strongest without sharing, when left out.

    Raises
    ------
    InputError
        For a method that is not there, or settings that have no subject in common.
    """
    methods = list(dict.fromkeys(rows["method"]))
    rival = against or next(name for name in methods if name.endswith(METHODS[1]))
    if rival not in methods:
        raise InputError(f"--against {rival!r}: there are {', '.join(methods)}")
    found = []
    for method in methods:
        of = rows[rows["method"] == method]
        differences = _differences(rows, method, rival)
        if not len(differences):
            raise InputError(f"{method!r} and {rival!r} have no target subject in common; nothing is compared")
        spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
        enough = len(differences) >= FEWEST
        several = enough and bool(np.any(differences))
        p = float(wilcoxon(differences).pvalue) * (len(methods) - 1) if several else None
        found.append(
            Compared(
                method=method,
                n_subjects=len(of.drop_duplicates(SUBJECT)),
                n_seeds=of["seed"].nunique(),
                score=estimate(rows, method),
                **{key: _mean(of, key) for key in MEASURES},
                gain=None if method == rival else paired(rows, method, rival).gain,
                effect=None if method == rival or not spread or not enough else float(differences.mean()) / spread,
                p=None if method == rival or p is None else min(1.0, p),
            )
        )
    return found


def _differences(rows: pd.DataFrame, method: str, rival: str) -> "pd.Series[float]":
    """Return each subject's difference in points, a mean over seeds."""
    means = rows.groupby(["method", *SUBJECT])["balanced_accuracy"].mean()
    ours, theirs = means[method], means[rival]
    differences: pd.Series[float] = (100 * (ours - theirs)).dropna()
    return differences


def _mean(rows: pd.DataFrame, measure: str) -> float:
    return float(rows.groupby(SUBJECT)[measure].mean().mean()) if measure in rows else float("nan")


def as_frame(compared: Sequence[Compared]) -> pd.DataFrame:
    """Return the table as text, as it is printed."""

    def shown(value: float | None, form: str) -> str:
        return "" if value is None or np.isnan(value) else format(value, form)

    return pd.DataFrame(
        {
            "method": [c.method for c in compared],
            "balanced accuracy, percent (95 %)": [str(c.score) for c in compared],
            "accuracy": [shown(c.accuracy, ".3f") for c in compared],
            "kappa": [shown(c.kappa, ".3f") for c in compared],
            "AUC": [shown(c.auc, ".3f") for c in compared],
            "difference (95 %)": [
                ""
                if c.gain is None
                else f"{c.gain.mean:+.1f} ({c.n_subjects} subjects: too few)"
                if c.n_subjects < FEWEST
                else f"{c.gain.mean:+.1f} ({c.gain.low:+.1f} to {c.gain.high:+.1f})"
                for c in compared
            ],
            "effect size d": [shown(c.effect, "+.2f") for c in compared],
            "p": [shown(c.p, ".2g") for c in compared],
        }
    )


def as_json(compared: Sequence[Compared]) -> str:
    """Return the table's numbers as JSON; NaN is null, and ``too_few`` says that subjects are too few to tell."""
    whole = [
        {k: None if v != v else v for k, v in asdict(c).items()}
        | {"too_few": c.n_subjects < FEWEST}  # NaN is not itself
        for c in compared
    ]
    return json.dumps(whole, indent=1)


def as_latex(compared: Sequence[Compared]) -> str:
    """Return the table as LaTeX for ``\\usepackage{booktabs}``, behind a comment with the verdict."""
    frame = as_frame(compared)
    frame.columns = pd.Index([name.translate(LATEX) for name in frame.columns])
    frame = frame.map(lambda text: text.translate(LATEX))
    table = frame.to_latex(index=False, column_format="l" + "r" * (len(frame.columns) - 1))
    return f"% {' '.join(verdict(compared).split())}\n{table}"


def as_csv(compared: Sequence[Compared]) -> str:
    """Return the table as CSV; a name that a spreadsheet would take for a formula begins with an apostrophe."""
    frame = as_frame(compared)
    frame["method"] = [f"'{name}" if name.startswith(FORMULA) else name for name in frame["method"]]
    return frame.to_csv(index=False)


def decision(compared: Sequence[Compared]) -> str:
    """Say whether to join, by the interval of the gain over what a site has without sharing."""
    ours = next((c for c in compared if c.method.endswith(METHODS[2])), None)
    if ours is None or ours.gain is None or ours.n_subjects < FEWEST or ours.gain.low <= 0 <= ours.gain.high:
        return "Whether to join is not to be told from this run"
    return "Join" if ours.gain.low > 0 else "Do not join"


def verdict(compared: Sequence[Compared]) -> str:
    """Say in a sentence what joining gave in the first setting, and whether that is clear of zero."""
    rival = next(c for c in compared if c.gain is None)
    ours = next((c for c in compared if c.method.endswith(METHODS[2])), None)
    if ours is None or ours.gain is None:
        return f"all beside {rival.method}"
    g = ours.gain
    way = "over" if g.mean >= 0 else "below"
    by = f"{abs(g.mean):.1f} points {way} {rival.method} ({g.low:+.1f} to {g.high:+.1f})"
    if ours.n_subjects < FEWEST:
        return f"{ours.method} is {by}: {ours.n_subjects} subjects are too few to tell more"
    clear = "clear of zero" if g.low > 0 else "below zero" if g.high < 0 else "not clear of zero"
    seeds = f"{ours.n_seeds} seed{'s' * (ours.n_seeds > 1)}"
    return f"{ours.method} is {by}, {clear}: {ours.n_subjects} subjects, {seeds}"
