"""Evaluate: a stage of its own, on saved layers. Scores every target subject's test trials; trains no network.

mf-scsn
    The last averaged common layers with the site's last private layers, fitted to each target subject's calibration
    where the settings say so.
own-calibration
    The linear classifier of the subject's calibration alone: `experiments.alone`.
local-site
    The strongest that the site has without sharing: two models of all its subjects, its network trained unshared and
    its linear classifier, averaged at one scale (`mfscsn.experts`).

Nothing is chosen on test trials. Predictions are limited to the subject's own tasks. Where trials of the site were held
out, each method's probabilities are at the temperature that those fit; which label is likeliest does not change.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from data.errors import InputError
from data.files import write_csv
from data.trials import Trials
from experiments.alone import LinearSite, own_answers
from experiments.references import OWN, ReferenceJob
from federation.contract import Federation, Site
from federation.run_folder import RunFolder
from federation.site import read_tensors
from federation.site_network import site_network
from federation.site_scores import balanced_accuracy, chosen_outputs, network_answers
from federation.site_trials import SiteTrials, Target
from federation.tables import first_difference
from mfscsn.branch import BranchTrials
from mfscsn.experts import averaged as at_one_scale
from mfscsn.split import SplitModule
from mfscsn.temperature import fitted_temperature, tempered

METHODS = ("own-calibration", "local-site", "mf-scsn")
COLUMNS = ("site", "dataset", "subject", "method", "seed", "n_test", "balanced_accuracy", "accuracy", "kappa", "auc")
PREDICTED = ("site", "dataset", "subject", "method", "seed", "trial", "label", "predicted")
PLACED = ("session", "run", "onset")  # of ``predictions.csv`` besides, and then the probability of each label
TEMPERATURES = ("site", "method", "n_held_out", "temperature")
PROBABILITY = "p_"  # begins such a column's name


@dataclass(frozen=True)
class Score:
    """One row of ``scores.csv``; `balanced_accuracy`, `accuracy` and `auc` from 0 to 1.

    `kappa` is Cohen's (1960, Educational and Psychological Measurement 20(1):37-46); `auc` of several labels is the
    mean of one against the rest, and None where the test holds one label alone.
    """

    site: str
    dataset: str
    subject: str
    method: str
    seed: int
    n_test: int
    balanced_accuracy: float
    accuracy: float = math.nan
    kappa: float = math.nan
    auc: float | None = None


def evaluate(run: RunFolder) -> list[Score]:
    """Score all target subjects of a finished run; write ``scores.csv`` and, trial by trial, ``predictions.csv``.

    Where trials were held out, ``temperatures.csv`` says which temperature they fit.

    Raises
    ------
    InputError
        When the run has not reached its last round, or its layers or trials are missing.
    """
    for site in run.federation.site:
        run.trials(site).check_labelled()
    last = run.last_round()
    if last < run.federation.training.rounds:
        raise InputError(
            f"{run.path}: ended at round {last} of {run.federation.training.rounds};"
            f" go on with the command that began it and --resume {run.path}"
        )
    torch.set_num_threads(int(run.environment["threads"]))  # fine-tuning must come out as it did before
    temperatures: list[tuple[str, str, int, float]] = []
    tables = [pair for k in range(len(run.federation.site)) for pair in _site_answers(run, k, temperatures)]
    scores = [score for score, _ in tables]
    names = list(dict.fromkeys(name for _, answers in tables for name in answers.names))
    predicted = [row for score, answers in tables for row in answers.rows(score, names)]
    if temperatures:
        write_csv(run.path / "temperatures.csv", TEMPERATURES, temperatures)
    columns = (*PREDICTED, *PLACED, *(f"{PROBABILITY}{name}" for name in names))
    write_csv(run.path / "predictions.csv", columns, predicted)
    write_csv(run.path / "scores.csv", COLUMNS, [[getattr(score, column) for column in COLUMNS] for score in scores])
    return scores


def check_alike(runs: Sequence[RunFolder]) -> None:
    """Raise InputError when runs that are to be averaged differ in more than their seeds; it names the first key."""
    for run in runs[1:]:
        change = first_difference(_without_seeds(runs[0]), _without_seeds(run))
        if change:
            raise InputError(f"{run.path}: cannot be averaged with {runs[0].path}: {change}")


def _without_seeds(run: RunFolder) -> dict[str, Any]:
    configuration = run.federation.model_dump(exclude={"name": True, "data_root": True, "training": {"seed"}})
    for site in configuration["site"]:
        site.pop("secret_seed")
    return configuration


@dataclass(frozen=True)
class Difference:
    """How much better one method is than another, in points, paired over target subjects (means over seeds).

    `p` is of the two-sided Wilcoxon signed-rank test; None with fewer than six subjects, where it can show nothing.
    """

    mean: float
    n_better: int
    n_subjects: int
    p: float | None


def paired_difference(scores: Sequence[Score], method: str, rival: str) -> Difference:
    """Compare two methods over the target subjects of one or several runs."""
    values: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for score in scores:
        of_subject = values.setdefault((score.site, score.dataset, score.subject), {})
        of_subject.setdefault(score.method, []).append(100 * score.balanced_accuracy)
    gains = np.array([np.mean(v[method]) - np.mean(v[rival]) for v in values.values()])
    p = float(wilcoxon(gains).pvalue) if len(gains) >= 6 and np.any(gains) else None
    return Difference(float(gains.mean()), int((gains > 0).sum()), len(gains), p)


@dataclass(frozen=True)
class _Answers:
    """What a method said of a subject's test trials, in time order, and where those were recorded."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    chosen: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    recorded: Trials

    def rows(self, score: Score, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of ``predictions.csv``."""
        places = {name: k for k, name in enumerate(self.names)}
        for k, (label, output) in enumerate(zip(self.labels, self.chosen, strict=True)):
            onset, told = self.recorded.known_onsets[k], self.probabilities[k]
            yield (
                *(score.site, score.dataset, score.subject, score.method, score.seed, k),
                *(self.names[label], self.names[output], self.recorded.sessions[k], self.recorded.runs[k]),
                "" if np.isnan(onset) else f"{onset:.3f}",
                *(f"{told[places[name]]:.6f}" if name in places else "" for name in names),
            )


def _site_answers(
    run: RunFolder, site_number: int, kept: list[tuple[str, str, int, float]]
) -> Iterator[tuple[Score, _Answers]]:
    """Say, by method, what is told of each target's test trials, at the site's temperatures, which the run keeps."""
    site, federation = run.federation.site[site_number], run.federation
    federated, local = run.load_network(site.name), local_network(run, site)
    trials, linear = run.trials(site), LinearSite(site, federation.contract, run.store)

    def told(target: Target, vectors: Target, calibration: BranchTrials) -> tuple[NDArray[np.float64], ...]:
        return (
            own_answers(calibration, vectors),
            local_answers(federation, trials, local, linear, target, vectors, calibration),
            network_answers(federation, trials, federated, target),
        )

    held_out = [
        (told(target, *alone), target.labels)
        for target, alone in zip(trials.held_out(), linear.held_out(), strict=True)
    ]
    temperatures = [fitted_temperature([(p[k], labels) for p, labels in held_out]) for k in range(len(METHODS))]
    n_held_out = sum(len(labels) for _, labels in held_out)
    kept += [(site.name, *pair) for pair in zip(METHODS, [n_held_out] * 3, temperatures, strict=True) if n_held_out]
    for target, alone in zip(trials.targets(), linear.targets(), strict=True):
        recorded = trials.tested_of(target.dataset, target.subject)
        for method, temperature, probabilities in zip(METHODS, temperatures, told(target, *alone), strict=True):
            yield _said(run, site, target, method, tempered(probabilities, temperature), recorded)


def local_answers(
    federation: Federation,
    trials: SiteTrials,
    local: SplitModule,
    linear: LinearSite,
    target: Target,
    vectors: Target,
    calibration: BranchTrials,
) -> NDArray[np.float64]:
    """Return what a site says of a target's trials without sharing: its network and its classifier, averaged."""
    return at_one_scale(
        [
            (0.5, "network", network_answers(federation, trials, local, target)),
            (0.5, "linear", linear.of_site(vectors, calibration)),
        ],
        target.outputs,
    )


def local_network(run: RunFolder, site: Site) -> SplitModule:
    """Load a site's network as it was trained unshared."""
    network = site_network(run.federation, run.trials(site))
    _load_whole(network, ReferenceJob(run.federation.site.index(site)), run)
    return network


def own_network(run: RunFolder, site_number: int, target: Target) -> SplitModule:
    """Load the network that was trained on a target subject's calibration alone; its branch is `OWN`."""
    shape = run.trials(run.federation.site[site_number]).branches()[target.branch]
    network = run.federation.contract.architecture.build_alone({OWN: shape})
    _load_whole(network, ReferenceJob(site_number, target.dataset, target.subject), run)
    return network


def _said(
    run: RunFolder, site: Site, target: Target, method: str, probabilities: NDArray[np.float64], recorded: Trials
) -> tuple[Score, _Answers]:
    from sklearn.metrics import cohen_kappa_score  # slow to load, and neither training nor kept results need it

    accuracy = balanced_accuracy(probabilities, target.labels, target.outputs)
    names = next(d for d in site.dataset if d.name == target.dataset).labels(run.federation.contract)
    chosen = chosen_outputs(probabilities, target.outputs)
    score = Score(
        site.name,
        target.dataset,
        target.subject,
        method,
        run.federation.training.seed,
        len(target.labels),
        accuracy,
        float(np.mean(chosen == target.labels)),
        float(cohen_kappa_score(target.labels, chosen, labels=np.arange(len(names)))),
        area_under_curve(probabilities, target.labels),
    )
    return score, _Answers(names, target.labels, chosen, probabilities, recorded)


def area_under_curve(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    """Return the area under the ROC curve, a mean of one label against the rest; None where there is one label alone.

    Parameters
    ----------
    probabilities : array, shape (n_trials, n_outputs)
    labels : array of int, shape (n_trials,)
    """
    from sklearn.metrics import roc_auc_score

    there = np.unique(labels)
    if len(there) < 2:
        return None
    whole = probabilities[:, there].sum(axis=1, keepdims=True)
    among = np.divide(
        probabilities[:, there], whole, out=np.full((len(labels), len(there)), 1 / len(there)), where=whole > 0
    )
    if len(there) == 2:
        return float(roc_auc_score(labels == there[1], among[:, 1]))
    return float(roc_auc_score(labels, among, multi_class="ovr", labels=there))


def _load_whole(network: SplitModule, job: ReferenceJob, run: RunFolder) -> None:
    path = job.path(run)
    if not path.exists():
        raise InputError(f"{path}: this reference was not trained; `mfscsn simulate ... --resume` trains it")
    tensors, about = read_tensors(path)
    if "trials" not in about:
        raise InputError(f"{path}: of an older version; remove it, and `--resume {run.path}` trains it again")
    if about["trials"] != run.trials(run.federation.site[job.site]).digest():
        raise InputError(f"{path}: trained on other trials than are prepared now; start a new run")
    common = set(network.common_names())
    network.load_common({k: v for k, v in tensors.items() if k in common})
    network.load_private({k: v for k, v in tensors.items() if k not in common})
