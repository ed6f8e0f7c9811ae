"""Benchmark: every method on the same prepared trials, split and seeds; one tidy CSV, resumable job by job."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from data.errors import InputError
from data.files import replaced
from data.store import relabelled_store
from data.trials import shuffled_within
from experiments.benchmark.federated import AVERAGES, METHODS, Scored, configured, kind_of, run_method
from experiments.benchmark.local import ALONE, REGIONS, SEEDED, of_region, run_alone
from experiments.benchmark.show import ALL
from experiments.benchmark.unseen import ROWS, UNSEEN, run_unseen
from experiments.prepare import prepare_sites
from federation.contract import Contract, Dataset, Federation, Site, load_federation
from federation.site_scores import balanced_accuracy, chosen_outputs
from federation.site_trials import SiteTrials
from federation.tables import Table, parse_table, read_toml, suggested
from federation.workers import start_workers, stop_workers
from mfscsn.experts import centred_logits, mean_logits

COLUMNS = (
    "method",
    "site",
    "dataset",
    "subject",
    "seed",
    "n_calibration",
    "n_test",
    "balanced_accuracy",
    "seconds",
    "bytes",
)


KEYS = ("method", "asked", "seed", "fold")
NUMBERS = ("asked", "seed", "fold", "balanced_accuracy", "seconds", "bytes")
RESTORE = "put it back, or give another --out"


class Only(Table):
    """What is run of a method in place of what is run of all: fewer folds or seeds where it costs much, or more."""

    seeds: int | None = Field(None, ge=1)
    folds: list[int] | None = Field(None, min_length=1)
    calibration: list[int] | None = Field(None, min_length=1)


class Bench(Table):
    """A benchmark, as BENCH.toml writes it.

    Parameters
    ----------
    federation : str
        A FED.toml, relative to this file.
    methods : list of str
        Names of `local.ALONE` and `federated.METHODS`.
    seeds : int
        0 to `seeds` - 1. A method without randomness runs once.
    folds : int, optional
        In fold f the federation's targets are those alone whose number leaves f when divided by so many; the others
        train whole. All folds are run, so each target is scored once.
    searched : list of int
        Folds that settings were searched on; tables show the others beside all.
    only : table
        A method's own number of seeds, folds or amounts of calibration: ``only.NAME = { seeds = 1, folds = [2] }``.
    calibration : list of int, optional
        Run all with so many calibration trials of each target subject, the first in time; all where there are fewer.
        With 0 their signals fit the subject's mean, and no label trains.
    new_site : bool
        A fold for each site, in which it is a new one: it has its targets' calibration, and all trials of the other
        sites train.
    laboratories : table of list of str, optional
        With `new_site`, the sites of each laboratory, which are new together: ``laboratories.NAME = [SITE, ...]``.
    contract : table
        Values in place of the federation's.
    results : str, optional
        The CSV of results, relative to this file.
    """

    federation: str
    methods: list[str] = Field(min_length=1)
    seeds: int = Field(10, ge=1)
    folds: int | None = Field(None, ge=2)
    searched: list[int] = Field([])
    only: dict[str, Only] = Field({})
    calibration: list[int] | None = Field(None, min_length=1)
    new_site: bool = False
    laboratories: dict[str, list[str]] | None = None
    contract: dict[str, Any] = Field({})
    results: str | None = None


@dataclass(frozen=True)
class Job:
    """One method with one seed, one amount of calibration, None is all of it, and one fold of so many, if any.

    With `new_sites`, the fold is the place of those that are new together.
    """

    method: str
    seed: int
    calibration: int | None
    new_sites: tuple[tuple[str, ...], ...] = ()
    fold: int = 0
    folds: int | None = None


def load_bench(path: Path, data_root: Path | None = None) -> tuple[Bench, Federation, dict[str, Any]]:
    """Read a BENCH.toml and the federation that it names; raise InputError in one line.

    Returns
    -------
    Bench, Federation, dict
        The last is what results are made with: the federation's file in JSON types, and whether sites are new.
    """
    bench = parse_table(Bench, read_toml(path), str(path))
    known = [*ALONE, *METHODS, *AVERAGES, *ROWS]
    for method in bench.methods:
        check_method(method, known, str(path))
    if bench.new_site and bench.folds:
        raise InputError(f"{path}: new_site = true has a fold for each site; leave folds out")
    unseen = next((name for name in _trained(bench.methods) if name in UNSEEN), None)
    if unseen is not None and not bench.new_site:
        raise InputError(f"{path}: {unseen}: which site is unseen? It needs new_site = true")
    if bench.laboratories and not bench.new_site:
        raise InputError(f"{path}: laboratories says which sites are new together; it needs new_site = true")
    for method in bench.only:
        check_method(method, [*bench.methods, *_trained(bench.methods)], f"{path}: only")
    described = (path.parent / bench.federation).resolve()
    document = {key: value for key, value in read_toml(described).items() if key != "data_root"}
    made_with = {"federation": json.loads(json.dumps(document, default=str)), "new_site": bench.new_site}
    if bench.folds:
        made_with["folds"] = bench.folds
    federation = load_federation(described, data_root)
    if bench.laboratories is not None:
        named = [site for sites in bench.laboratories.values() for site in sites]
        there = [site.name for site in federation.site]
        if sorted(named) != sorted(there):
            raise InputError(f"{path}: laboratories: expected each site of {bench.federation} once: {', '.join(there)}")
        made_with["laboratories"] = bench.laboratories
    if bench.contract:
        values = {**document.get("contract", {}), **bench.contract}
        made_with["federation"]["contract"] = json.loads(json.dumps(values))
        federation = federation.model_copy(update={"contract": parse_table(Contract, values, f"{path}: contract")})
    return bench, federation, made_with


def results_path(bench: Bench, path: Path, name: str) -> Path:
    """Return where the results of a BENCH.toml are kept: where it says, unless they go by another name than its own."""
    if bench.results and name == path.stem:
        return Path(os.path.normpath(path.parent / bench.results))
    return Path("results") / f"{name}.csv"


def check_method(method: str, known: Sequence[str], where: str) -> None:
    """Raise InputError when there is no such method."""
    if method not in known:
        raise InputError(
            f"{where}: no such method {method!r}{suggested(method, list(known))}; there are {', '.join(known)}"
        )


def new_sites(bench: Bench, federation: Federation) -> tuple[tuple[str, ...], ...]:
    """List the sites that are new together, a fold each; none where all sites take part."""
    if not bench.new_site:
        return ()
    each = {site.name: [site.name] for site in federation.site}
    return tuple(tuple(sites) for sites in (bench.laboratories or each).values())


def jobs_of(bench: Bench, new: tuple[tuple[str, ...], ...] = ()) -> list[Job]:
    """List all jobs, seed by seed, so that what is broken off is whole for the first seeds."""
    calibrations: list[int | None] = [*bench.calibration] if bench.calibration else [None]
    folds = len(new) or bench.folds or 1
    most = max([bench.seeds, *(only.seeds or 0 for only in bench.only.values())])
    return [
        Job(method, seed, calibration, new, fold, bench.folds)
        for seed, calibration, fold, method in itertools.product(
            range(most), calibrations, range(folds), _trained(bench.methods)
        )
        if (seed == 0 or method not in ALONE or method in SEEDED) and _asked_for(bench, method, seed, fold, calibration)
    ]


def _asked_for(bench: Bench, method: str, seed: int, fold: int, calibration: int | None) -> bool:
    """Return whether a method runs with a seed on a fold: an average as its first part, if it says no more."""
    only = bench.only.get(method, bench.only.get(_trained([method])[0], Only()))
    return (
        seed < (only.seeds or bench.seeds)
        and (only.folds is None or fold in only.folds)
        and (only.calibration is None or calibration in (None, *only.calibration))
    )


def _trained(methods: Sequence[str]) -> list[str]:
    """List what must be run: of an average its parts, first that which varies; of an unseen site's rows their job."""
    parts = [part for name in methods for part in AVERAGES.get(name, [name])]
    return list(dict.fromkeys(ROWS.get(part, part) for part in parts))


def missing_jobs(bench: Bench, rows: pd.DataFrame, new: tuple[tuple[str, ...], ...] = ()) -> list[Job]:
    """List the jobs that have no rows yet."""
    done = {
        Job(
            ROWS.get(str(method), str(method)),
            int(seed),
            None if bench.calibration is None else int(asked),
            new,
            int(fold),
            bench.folds,
        )
        for method, asked, seed, fold in rows[list(KEYS)].drop_duplicates().itertuples(index=False)
    }
    return [
        job
        for job in jobs_of(bench, new)
        if job not in done
        and any(
            replace(job, method=name) not in done  # an average of an older version is kept as it was
            for name in bench.methods
            if job.method in _trained([name]) and _asked_for(bench, name, job.seed, job.fold, job.calibration)
        )
    ]


def with_averages(bench: Bench, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the averages that a benchmark asks for, made of the logits of their parts; a row where these are kept."""
    whose = ["asked", "fold", "site", "dataset", "subject"]
    with_logits = rows[rows["logits"] != ""]
    of_method = {str(name): part.set_index(["seed", *whose]) for name, part in with_logits.groupby("method")}
    made = []
    for name in [name for name in bench.methods if name in AVERAGES and set(AVERAGES[name]) <= of_method.keys()]:
        first, *others = AVERAGES[name]
        for at_first, row in of_method[first].iterrows():
            key: tuple[Any, ...] = at_first  # type: ignore[assignment]
            # A method without randomness has run with one seed
            keys = [(other, key if key in of_method[other].index else (0, *key[1:])) for other in others]
            if all(at in of_method[other].index for other, at in keys):
                of_target = {first: row} | {other: of_method[other].loc[at] for other, at in keys}
                made.append({**dict(zip(["seed", *whose], key, strict=True)), **_average(name, of_target)})
    if not made:
        return rows
    kept = [*KEYS, "site", "dataset", "subject"]
    return pd.concat([rows, pd.DataFrame(made)], ignore_index=True).drop_duplicates(kept, keep="last")


def _average(name: str, rows: dict[str, Any]) -> dict[str, Any]:
    """Average one target's rows of an average's parts, at one scale."""
    parts = {method: parsed_logits(row["logits"]) for method, row in rows.items()}
    outputs = next(iter(parts.values()))[0]
    mean = mean_logits([(weight, kind_of(part), parts[part][1]) for part, weight in AVERAGES[name].items()])
    first = next(iter(rows.values()))
    labels = np.array([ord(letter.lower()) - ord("a") for letter in first["answers"]])
    told = np.zeros((len(mean), int(max(*outputs, *labels)) + 1))
    told[:, outputs] = mean
    return {
        "method": name,
        "n_calibration": first["n_calibration"],
        "n_test": first["n_test"],
        "balanced_accuracy": round(balanced_accuracy(told, labels, outputs), 6),
        "seconds": round(sum(row["seconds"] for row in rows.values()), 2),
        "bytes": sum(row["bytes"] for row in rows.values()),
        "answers": _letters(labels, outputs[mean.argmax(axis=1)]),
        "logits": _logits(mean, outputs),
    }


def chosen_rows(bench: Bench, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that a benchmark asks for, in the order of its methods."""
    rows = with_averages(bench, rows)
    asked = [
        _asked_for(bench, method, seed, fold, None if bench.calibration is None else asked)
        for method, seed, fold, asked in rows[["method", "seed", "fold", "asked"]].itertuples(index=False)
    ]
    chosen = rows[rows["method"].isin(bench.methods) & np.array(asked, bool)]
    place = {method: k for k, method in enumerate(bench.methods)}
    return chosen.sort_values("method", key=lambda names: names.map(place), kind="stable", ignore_index=True)


def run_benchmark(
    bench: Bench,
    federation: Federation,
    store: Path,
    results: Path,
    made_with: dict[str, Any],
    n_parallel: int,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> pd.DataFrame:
    """Run the jobs whose rows are missing from `results`, and write each one's rows as soon as it is done.

    Parameters
    ----------
    bench, federation : Bench, Federation
        The federation with its subjects named, as `prepare_bench` gives it.
    store : Path
        The folder of prepared trials.
    results : Path
        The CSV; beside it lies a JSON that says what it was made with.
    made_with : dict
        As `load_bench` gives it.
    n_parallel : int
        Processes, each with one thread.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`, "fold", "asked" (of `Bench.calibration`, or `ALL`) and "answers", a letter a test trial: its label,
        in capitals where that was told rightly, and "logits" (`_logits`); one row for each job and target subject.

    Raises
    ------
    InputError
        When the CSV was made with another configuration or other trials.
    """
    trials = _trials(federation, store)
    rows = read_results(results, made_with, trials)
    new = new_sites(bench, federation)
    missing, total = missing_jobs(bench, rows, new), len(jobs_of(bench, new))
    report("benchmark", total - len(missing), total)
    pool = start_workers(n_parallel, threads=1)
    try:
        futures = [pool.submit(run_job, job, federation, store) for job in missing]
        for n, future in enumerate(as_completed(futures), total - len(missing) + 1):
            rows = pd.concat([rows, pd.DataFrame(future.result())], ignore_index=True)
            rows = rows.drop_duplicates([*KEYS, "site", "dataset", "subject"], keep="last")
            _write(results, rows, {**made_with, "trials": trials})
            report("benchmark", n, total)
    finally:
        stop_workers(pool)
    return chosen_rows(bench, read_results(results, made_with))


def prepare_bench(bench: Bench, federation: Federation, store: Path, progress: Callable[..., None]) -> Federation:
    """Prepare the trials that the methods need: the federation's, those of the common headset, those of a region."""
    prepared = prepare_sites(federation, store, progress)
    if any(method in METHODS and METHODS[method].common_channels for method in bench.methods):
        prepare_sites(configured(prepared, METHODS["fedavg"], 0, store), store)
    for region in REGIONS:
        if any(method.endswith(f"-{region}") for method in bench.methods):
            prepare_sites(of_region(prepared, store, region), store)
    return prepared


def run_job(job: Job, federation: Federation, store: Path) -> list[dict[str, object]]:
    """Run one job and score it; a row for each target subject, and for each method that comes with it."""
    federation = with_calibration(of_fold(federation, job), job.calibration)
    if job.method in UNSEEN:
        scored = run_unseen(job.method, federation, job.seed, store)
    else:
        scored = [(job.method, row) for row in _scored(job.method, federation, job.seed, store)]
    sizes = {
        (site.name, subject): len(trials.labels)
        for site in federation.site
        for (_, subject), trials in SiteTrials(site, federation.contract, store).calibration().items()
    }
    return [
        {
            "method": method,
            "site": row.site,
            "dataset": row.dataset,
            "subject": row.subject,
            "seed": job.seed,
            "n_calibration": sizes[row.site, row.subject],
            "asked": ALL if job.calibration is None else job.calibration,
            "fold": job.fold,
            "n_test": len(row.labels),
            "balanced_accuracy": round(balanced_accuracy(row.probabilities, row.labels, row.outputs), 6),
            "seconds": round(row.seconds, 2),
            "bytes": row.n_bytes,
            "answers": _letters(row.labels, chosen_outputs(row.probabilities, row.outputs)),
            "logits": _logits(centred_logits(row.probabilities, row.outputs), row.outputs),
        }
        for method, row in scored
    ]


def _letters(labels: NDArray[np.int64], chosen: NDArray[np.int64]) -> str:
    """Write a letter a test trial: which label it has, in capitals where that was told rightly."""
    letters = [chr(ord("a") + int(label)) for label in labels]
    return "".join(letter.upper() if hit else letter for letter, hit in zip(letters, labels == chosen, strict=True))


def _logits(logits: NDArray[np.float64], outputs: NDArray[np.int64]) -> str:
    """Write the letters of the outputs that may be, and each test trial's logits of these, less their mean."""
    letters = "".join(chr(ord("a") + int(output)) for output in outputs)
    return " ".join([letters, *(f"{value:.4g}" for value in logits.ravel())])


def parsed_logits(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read what `_logits` wrote: outputs, and logits ``(n_trials, len(outputs))``."""
    letters, *values = text.split()
    outputs = np.array([ord(letter) - ord("a") for letter in letters])
    return outputs, np.array(values, float).reshape(-1, len(outputs))


def scales(rows: pd.DataFrame) -> pd.Series:
    """Return, by method, the median over targets of the standard deviation of their logits: `mfscsn.experts.SCALES`."""
    kept = rows[rows["logits"] != ""]
    spread = kept["logits"].map(lambda text: float(parsed_logits(text)[1].std()))
    return spread.groupby(kept["method"], sort=False).median()


def _scored(method: str, federation: Federation, seed: int, store: Path) -> list[Scored]:
    if method in ALONE:
        return run_alone(method, federation, seed, store)
    return run_method(federation, METHODS[method], seed, store)


def of_fold(federation: Federation, job: Job) -> Federation:
    """Keep the targets of a job's fold as such; the others train whole."""
    if job.new_sites:
        new = job.new_sites[job.fold]
        unshared = job.method in METHODS and METHODS[job.method].contract.get("share") == "none"
        sites = [site if site.name in new else _all_train(site) for site in federation.site]
        return federation.model_copy(update={"site": [site for site in sites if not unshared or site.name in new]})
    if job.folds is None:
        return federation
    sites = []
    for site in federation.site:
        kept = [
            dataset.model_copy(update={"targets": [t for t in dataset.targets if _number(t) % job.folds == job.fold]})
            for dataset in site.dataset
        ]
        sites.append(site.model_copy(update={"dataset": kept}))
    return federation.model_copy(update={"site": sites})


def _number(subject: str) -> int:
    digits = "".join(c for c in subject if c.isdigit())
    if not digits:
        raise InputError(f"target {subject!r} has no number, which folds go by; rename it, or leave folds out")
    return int(digits)


def _all_train(site: Site) -> Site:
    return site.model_copy(update={"dataset": [d.model_copy(update={"targets": []}) for d in site.dataset]})


def with_calibration(federation: Federation, first: int | None) -> Federation:
    """Keep only the first trials of every target's calibration; its test trials stay the same."""
    if first is None:
        return federation
    sites = []
    for site in federation.site:
        datasets = []
        for dataset in site.dataset:
            if dataset.targets and dataset.calibration is not None:
                if dataset.test == "rest":
                    raise InputError(
                        f'site {site.name!r}, data set {dataset.name!r}: with fewer calibration trials, test = "rest"'
                        " would be other trials; name them with runs, sessions or after"
                    )
                known = dataset.calibration.first
                if first == 0 and not (dataset.calibration.runs or dataset.calibration.sessions):
                    raise InputError(
                        f"site {site.name!r}, data set {dataset.name!r}: with no calibration trial, which signals fit"
                        " the mean? name them with runs or sessions"
                    )
                fewer = first if known is None else min(first, known)
                calibration = dataset.calibration.model_copy(update={"first": fewer})
                dataset = dataset.model_copy(update={"calibration": calibration})
            datasets.append(dataset)
        sites.append(site.model_copy(update={"dataset": datasets}))
    return federation.model_copy(update={"site": sites})


def shuffled_store(store: Path, out: Path, seed: int = 0) -> None:
    """Copy prepared trials with the labels shuffled within each subject's runs: no method may then be above chance.

    Within runs, so that a subject's calibration and test keep their tasks.
    """
    rng = np.random.default_rng(seed)

    def shuffled(folder: str, subject: str, labels: NDArray[np.str_], runs: NDArray[np.str_]) -> NDArray[np.str_]:
        return shuffled_within(labels, runs, rng)

    relabelled_store(store, out, shuffled)


def _trials(federation: Federation, store: Path) -> str:
    digests = [SiteTrials(site, federation.contract, store).digest() for site in federation.site]
    split = [[_split(dataset) for dataset in site.dataset] for site in federation.site]
    return hashlib.sha256(json.dumps([digests, split]).encode()).hexdigest()


def _split(dataset: Dataset) -> dict[str, Any]:
    """Describe who trains and who is tested; keys that came later show where they are used: kept results go on."""
    later = {"held_out"} if dataset.held_out is None else set()
    return dataset.model_dump(mode="json", exclude={"source", "without"} | later)


def read_results(results: Path, made_with: dict[str, Any], trials: str | None = None) -> pd.DataFrame:
    """Read the rows that there are; none where there is no file.

    Raises
    ------
    InputError
        When they were made with another configuration or, where `trials` is given, other trials; when a file is
        damaged.
    """
    about = results.with_suffix(".json")
    if not results.exists():
        return pd.DataFrame(columns=[*COLUMNS, "asked", "fold", "answers", "logits"])
    try:
        known = json.loads(about.read_text()) if about.exists() else {}
        rows = pd.read_csv(results, dtype={"subject": str, "dataset": str, "answers": str, "logits": str})
    except ValueError as error:  # of JSON and of pandas alike
        raise InputError(f"{results}, or {about.name} beside it: damaged; {RESTORE}") from error
    theirs = known.pop("trials", None)
    if (known, theirs) != (made_with, trials or theirs):
        what = "other trials" if known == made_with else "another configuration"
        raise InputError(f"{results}: made with {what}; give another --out, or remove it")
    if not set(COLUMNS) <= set(rows.columns):
        raise InputError(f"{results}: no results of a benchmark; its columns are {', '.join(rows.columns)}")
    if "fold" not in rows:
        rows["fold"] = 0
    for column in ("answers", "logits"):
        if column not in rows:
            rows[column] = ""
    numbers = rows[[name for name in NUMBERS if name in rows]].apply(pd.to_numeric, errors="coerce")
    damaged = np.flatnonzero(numbers.isna().any(axis=1) | ~numbers["balanced_accuracy"].between(0, 1))
    if len(damaged):
        raise InputError(f"{results}, line {damaged[0] + 2}: a number is missing or cannot be; {RESTORE}")
    return rows.fillna({"answers": "", "logits": ""})


def _write(results: Path, rows: pd.DataFrame, made_with: dict[str, Any]) -> None:
    order = [*KEYS, "site", "dataset", "subject"]
    with replaced(results.with_suffix(".json")) as out:
        out.write(json.dumps(made_with, indent=1).encode())
    with replaced(results) as out:
        out.write(rows.sort_values(order).to_csv(index=False).encode())
