"""Choose BEETL's settings on labelled trials alone: leave one race (A) or one block (B) out, five times.

Every labelled trial of the target subjects is predicted once by networks that did not train on it, and the settings
that score best there, by the competition's own formula, are written down. No test trial is looked at.
"""

import hashlib
import itertools
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from data.errors import InputError
from data.files import replaced
from experiments.beetl.run import Task, beetl_federation, predictions, train_run
from experiments.beetl.score import points
from experiments.progress import Progress
from federation.contract import Federation
from federation.run_folder import RunFolder

FOLDS = range(1, 6)
DEFAULT_TRIES = ("training.lr=0.004,0.008",)


@dataclass(frozen=True)
class Tried:
    """Settings that were tried, and their score over all labelled trials and in each fold, in percent."""

    settings: Mapping[str, Any]
    score: float
    folds: tuple[float, ...]


def candidates(tries: Sequence[str]) -> list[dict[str, Any]]:
    """Cross the values of all settings, each given as ``table.key=value,value``.

    Raises
    ------
    InputError
        For words of another form.
    """
    axes: list[list[tuple[str, Any]]] = []
    for words in tries or DEFAULT_TRIES:
        key, _, values = words.partition("=")
        if key.partition(".")[0] not in ("contract", "training") or "." not in key or not values:
            raise InputError(f"--try {words}: expected contract.KEY=VALUE,... or training.KEY=VALUE,...")
        if key == "training.seed":
            raise InputError(f"--try {words}: a seed is nothing to choose; give --seed")
        if any(key == axis[0][0] for axis in axes):
            raise InputError(f"--try {words}: {key} is tried already; give all its values at once")
        different = [value for k, value in enumerate(_values(values)) if value not in _values(values)[:k]]
        if not different:
            raise InputError(f"--try {words}: no value")
        axes.append([(key, value) for value in different])
    return [dict(chosen) for chosen in itertools.product(*axes)]


@dataclass(frozen=True)
class Tuning:
    """What all candidates have.

    Parameters
    ----------
    task : Task
    settings, units : mapping
        As `beetl_federation` takes them.
    work : Path
        Where the runs are kept: a second call goes on where the first one was broken off.
    start : callable
        Begins a run of a federation in a folder, or goes on with the one that is there.
    """

    task: Task
    settings: Mapping[str, Any]
    units: Mapping[str, str]
    work: Path
    start: Callable[[Federation, Path], RunFolder]


def choose(
    tuning: Tuning,
    grid: Sequence[Mapping[str, Any]],
    report: Callable[[Progress], None],
    show: Callable[[Tried], None] = lambda tried: None,
) -> list[Tried]:
    """Try all candidates; what is returned has the best first.

    Parameters
    ----------
    tuning : Tuning
    grid : sequence of mapping
        From `candidates`.
    report : callable
        Called with a `Progress` before each fold.
    show : callable
        Called with each candidate when its five folds are done.
    """
    task, units = tuning.task, tuning.units
    tables = [_tables(tuning.settings, candidate) for candidate in grid]
    for table in tables:  # all of them, before the first one trains for minutes
        beetl_federation(task, table, units, held_out=FOLDS[0], where="--try")
    tried = []
    for number, (candidate, table) in enumerate(zip(grid, tables, strict=True)):
        answers = []
        for fold in FOLDS:
            report(Progress("tune", number * len(FOLDS) + fold - 1, len(grid) * len(FOLDS), describe(candidate)))
            federation = beetl_federation(task, table, units, held_out=fold)
            answers.append(_held_out(task, federation, tuning.work / f"{_mark(federation)}-fold{fold}", tuning.start))
        codes, truth = (np.concatenate(part) for part in zip(*answers, strict=True))
        tried.append(Tried(candidate, points(codes, truth), tuple(points(c, t) for c, t in answers)))
        show(tried[-1])
    report(Progress("tune", len(grid) * len(FOLDS), len(grid) * len(FOLDS)))
    return sorted(tried, key=lambda t: -t.score)


def write_settings(out: Path, tried: Sequence[Tried], task: Task, rounds: int | None = None) -> None:
    """Write the best settings for `mfscsn beetl run --settings`, with all that was tried as comments.

    `rounds` joins them where it was given: fewer or more of them would be other settings.
    """
    lines = [f"# {t.score:6.2f}  {describe(t.settings)}" for t in tried]
    chosen = {**({"training.rounds": rounds} if rounds else {}), **tried[0].settings}
    head = "\n".join(
        [
            f"# Chosen by `mfscsn beetl tune` on labelled trials of the {task.phase} phase, {task.sources} sources:",
            "# one race (A) or block (B) left out, five times. Score in percent of what was tried:",
            *lines,
        ]
    )
    with replaced(out) as file:
        file.write(f"{head}\n\n{tomli_w.dumps(_tables({}, chosen))}".encode())


def _held_out(
    task: Task, federation: Federation, path: Path, start: Callable[[Federation, Path], RunFolder]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Train without a race or block, and give its predicted and true codes."""
    run = start(federation, path)
    train_run(run, task.method, lambda _: None)
    answers = list(predictions(run, task.method))
    return np.concatenate([p.codes for p in answers]), np.concatenate([p.truth for p in answers])


def _mark(federation: Federation) -> str:
    return hashlib.sha256(json.dumps(federation.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:12]


def _values(text: str) -> list[Any]:
    """Read values as TOML would, or else as words."""
    try:
        return list(tomllib.loads(f"values = [{text}]")["values"])
    except tomllib.TOMLDecodeError:
        return text.split(",")


def _tables(settings: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, Any]:
    tables: dict[str, dict[str, Any]] = {name: dict(values) for name, values in settings.items()}
    for key, value in candidate.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, {})[name] = value
    return tables


def describe(candidate: Mapping[str, Any]) -> str:
    """Describe a candidate in words, as ``lr 0.001, shrinkage 0.3``."""
    return ", ".join(f"{key.partition('.')[2]} {value}" for key, value in candidate.items())
