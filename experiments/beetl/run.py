"""BEETL, motor imagery: from the competition's files to an answer of 1000 codes, and to its score where labels are.

Five sites are federated by the same code as any other federation. Nothing here reads a label of a test trial before
the answer is written.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.beetl import COMMON_MONTAGE, FOLDERS, TARGETS, check_sums, phase_folder
from data.beetl_answer import N_ANSWERS, N_CODES, read_true_labels, write_answer
from data.errors import InputError
from data.files import check_free, replaced
from experiments.beetl.score import BeetlScore, as_document, score
from experiments.evaluate import local_network, own_network
from experiments.prepare import prepare_sites
from experiments.progress import Progress
from experiments.references import OWN, own_network_jobs, reference_jobs, train_references
from experiments.simulate import train_rounds
from federation.contract import Federation, parse_federation, with_root
from federation.run_folder import RunFolder, checked_device
from federation.site_scores import fine_tuned
from federation.tables import read_toml
from mfscsn.device import Device
from mfscsn.split import SplitModule
from mfscsn.training import predict

ABOUT = "beetl.json"
# Of the organisers' network, a ShallowConvNet for each subject
BASELINE = {"extractor": "shallow", "alignment": "standard"}
BASELINE_TRAINING = {"rounds": 40, "batch_size": 32, "lr": 5e-4, "schedule": "constant", "fine_tune": 0}


@dataclass(frozen=True)
class Task:
    """What `mfscsn beetl run` was asked for; kept in the run's folder as ``beetl.json``.

    Parameters
    ----------
    data : str
        The folder that holds ``finalMI`` and ``leaderboardMI``, absolute.
    phase : {"final", "leaderboard"}
    sources : {"moabb", "simulated", "null"}
        Where Cho2017, PhysionetMI and BNCI2014_001 come from; "null" is the control, simulated without any imagery.
    method : {"mf-scsn", "local-site", "baseline"}
        The federation; the same target sites unshared; a ShallowConvNet for each subject alone, on the 17 channels
        that all data sets have, as the organisers' start kit feeds it.
    transductive : bool
        Whether a second answer is wanted, aligned on the unlabelled test trials.
    """

    data: str
    phase: str = "final"
    sources: str = "moabb"
    method: str = "mf-scsn"
    transductive: bool = False


def beetl_federation(
    task: Task,
    settings: Mapping[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
    held_out: int | None = None,
    where: str = "beetl.toml",
) -> Federation:
    """Describe the competition as a federation.

    Parameters
    ----------
    task : Task
    settings : mapping, optional
        Tables ``contract`` and ``training`` whose values replace those of ``beetl.toml``.
    units : mapping of data set to unit, optional
        Where files are not in the published unit.
    held_out : int, optional
        For tuning: the test is then labelled race (A) or block (B) number `held_out`, 1 to 5, which does not train.
    where : str
        Where the settings are from, for errors.

    Raises
    ------
    InputError
        For an unknown setting, or a second answer that would be the first one.
    """
    data = Path(task.data)
    document = read_toml(Path(str(files("experiments") / "federations" / "beetl.toml")))
    for table, values in (settings or {}).items():
        if table not in ("contract", "training") or not isinstance(values, dict):
            raise InputError(f"{where}: {table!r}: expected the tables [contract] and [training] alone")
        document[table] |= values
    if task.method == "baseline":
        document["contract"] |= {**BASELINE, "channels": COMMON_MONTAGE.split()}
        document["training"] = {**BASELINE_TRAINING, **(settings or {}).get("training", {})}
    for site in document["site"]:
        (dataset,) = site["dataset"]
        if site["name"] in TARGETS:
            _complete(dataset, task, (units or {}).get(site["name"]), held_out)
        elif task.sources != "moabb":
            dataset["source"] = dataset["source"].replace("moabb:", "simulated:")
            dataset["options"] = {"depth": 0.0} if task.sources == "null" else {}
    if task.method != "mf-scsn":
        document["site"] = [site for site in document["site"] if site["name"] in TARGETS]
    federation = parse_federation(document, where)
    _check_transductive(task, federation)
    return with_root(federation, data.resolve())


def _complete(dataset: dict[str, Any], task: Task, unit: str | None, held_out: int | None) -> None:
    """Fill in what depends on the phase: who is scored, and whether the leaderboard phase's trials join."""
    target = TARGETS[dataset["name"]]
    dataset["options"]["phase"] = task.phase
    dataset["targets"] = list(target.subjects[task.phase])
    if unit is not None:
        dataset["options"]["unit"] = unit
    if task.method == "baseline":
        dataset["tasks"] = {name: target.answer_names[code] for name, code in target.answer_codes.items()}
        dataset["tasks"].pop("other")
    if task.phase == "final" and (Path(task.data) / FOLDERS["leaderboard"]).is_dir():
        dataset["options"]["leaderboard"] = True  # of no use to a baseline, but to how many trials it is shown
    if held_out is not None:
        stem = "race" if target.name == "A" else "block"
        dataset["calibration"] = {"runs": [f"{stem}{k}" for k in range(1, 6) if k != held_out]}
        dataset["test"] = {"runs": [f"{stem}{held_out}"]}


def begin_run(
    task: Task,
    federation: Federation,
    out: Path,
    store: Path,
    threads: int,
    device: Device,
    prepared: Callable[..., None],
) -> RunFolder:
    """Check the competition's files, prepare all sites and begin a run; raise InputError before the run's folder is."""
    check_free(out)
    checked_device(device, str(out))
    _check_files(task)
    federation = prepare_sites(federation, store, prepared)
    run = RunFolder.create(out, federation, store, threads, device=device)
    _keep(run, task)
    return run


def reopen_run(path: Path, prepared: Callable[..., None], transductive: bool = False) -> tuple[RunFolder, Task]:
    """Open a run to go on with it, its files checked as when it began; it may be asked for the second answer now."""
    run = RunFolder(path)
    try:
        task = Task(**json.loads((run.path / ABOUT).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{run.path}: no run of `mfscsn beetl run` ({ABOUT} is missing or damaged)") from error
    wanted = replace(task, transductive=task.transductive or transductive)
    _check_transductive(wanted, run.federation)
    _check_files(task)
    prepare_sites(run.federation, run.store, prepared)
    if wanted != task:
        _keep(run, wanted)
    return run, wanted


def begin_or_reopen(
    task: Task,
    federation: Federation,
    path: Path,
    store: Path,
    threads: int,
    device: Device,
    prepared: Callable[..., None],
) -> RunFolder:
    """Go on with a run of ours that `path` names by what it is of, or begin it; half-made folders are made anew."""
    if (path / ABOUT).exists():
        return reopen_run(path, prepared)[0]
    if path.exists():  # broken off before anything was trained
        shutil.rmtree(path)
    return begin_run(task, federation, path, store, threads, device, prepared)


def _check_transductive(task: Task, federation: Federation) -> None:
    if task.transductive and federation.contract.alignment in ("standard", "none"):
        raise InputError(
            f"--transductive: the alignment {federation.contract.alignment!r} of {task.method} fits nothing, so a"
            " second answer would be the first one; leave it out"
        )


def _check_files(task: Task) -> None:
    data = Path(task.data)
    check_sums(data)
    phase_folder(data, task.phase)
    read_true_labels(data)  # a wrong file is refused now, not when all is trained; nothing is kept of it


def _keep(run: RunFolder, task: Task) -> None:
    with replaced(run.path / ABOUT) as file:
        file.write(json.dumps(asdict(task), indent=1).encode())


def train_run(run: RunFolder, method: str, report: Callable[[Progress], None]) -> None:
    """Train what is left of a run."""
    with run.locked("command", wait=15.0):
        if method == "mf-scsn":
            train_rounds(run, report)
        else:
            jobs = reference_jobs(run) if method == "local-site" else own_network_jobs(run)
            train_references(run, jobs, lambda done, total: report(Progress(method, done, total)))


@dataclass(frozen=True)
class TargetAnswers:
    """A target subject's test trials: submitted codes, and the true ones, -1 where they are not known."""

    subject: str
    codes: NDArray[np.int64]
    truth: NDArray[np.int64]


def predictions(run: RunFolder, method: str, transductive: bool = False) -> Iterator[TargetAnswers]:
    """Predict the test trials of all target subjects with a trained run, in the organisers' order."""
    contract = run.federation.contract
    for k, site in enumerate(run.federation.site):
        if site.name not in TARGETS:
            continue
        trials = run.trials(site)
        network: SplitModule | None = None
        if method == "mf-scsn":
            network = run.load_network(site.name)
        elif method == "local-site":
            network = local_network(run, site)
        for target in trials.targets(transductive):
            labels = site.dataset[0].labels(contract)
            if network is not None:
                own = fine_tuned(run.federation, trials, network, target)
                probabilities = predict(own, target.signals, target.branch)
            else:
                probabilities = predict(own_network(run, k, target), target.signals, OWN)
            codes = _codes_of(labels, site.name)
            truth = np.where(target.labels >= 0, codes[target.labels], -1)
            yield TargetAnswers(target.subject, submitted(probabilities, codes), truth)


def submitted(probabilities: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Merge a head's outputs into the codes that are submitted, and choose one for each trial.

    A merged class counts the mean of its members. The heads learn with every task weighing the same, and the score
    weighs every merged class the same: for such a score the mean is Bayes' choice, where the sum would favour "other".

    Parameters
    ----------
    probabilities : array, shape (n_trials, n_outputs)
    codes : array of int, shape (n_outputs,)
        The code that each output is submitted as.
    """
    merged = np.stack([probabilities[:, codes == code].mean(axis=1) for code in range(N_CODES)], axis=1)
    chosen: NDArray[np.int64] = merged.argmax(axis=1)
    return chosen


def _codes_of(labels: Sequence[str], target: str) -> NDArray[np.int64]:
    return np.array([TARGETS[target].answer_codes[label] for label in labels], np.int64)


@dataclass(frozen=True)
class Answered:
    """What a run has answered: files, and the score where the labels are at hand."""

    name: str
    path: Path
    score: BeetlScore | None


def answer(run: RunFolder, task: Task) -> list[Answered]:
    """Write ``answer.txt`` and ``answer.zip`` of a trained run, then score them where the labels are at hand."""
    names = ["answer", "answer-transductive"] if task.transductive else ["answer"]
    answers = []
    for name in names:
        codes = np.concatenate([p.codes for p in predictions(run, task.method, name != "answer")])
        if len(codes) != N_ANSWERS:
            raise InputError(f"{run.path}: {len(codes)} test trials were predicted, expected {N_ANSWERS}")
        write_answer(run.path, codes, name)
        answers.append(codes)
    truth = read_true_labels(Path(task.data)) if task.phase == "final" else None
    scores = [score(codes, truth) if truth is not None else None for codes in answers]
    if truth is not None:
        with replaced(run.path / "score.json") as out:
            out.write(
                json.dumps({n: as_document(s) for n, s in zip(names, scores, strict=True) if s}, indent=1).encode()
            )
    return [Answered(n, run.path / f"{n}.txt", s) for n, s in zip(names, scores, strict=True)]
