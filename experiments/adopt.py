"""Adopt: a new site, headset or subject takes a finished federation's common layers and trains its own around them.

Nothing is sent and no server is asked. The result is a run's folder like any other, of one site: `evaluate`, `report`
and `predict` work on it. In its tables `mf-scsn` is the network around the adopted layers, `local-site` the same
network with common layers of its own.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from data.errors import InputError
from data.files import write_csv
from experiments.evaluate import METHODS, Score, evaluate
from experiments.progress import Progress
from experiments.references import reference_jobs, train_references
from federation.common_layers import AdoptableLayers, of_subject
from federation.contract import ONE_MESSAGE, Dataset, Federation, Part, Site
from federation.run_folder import RunFolder
from federation.site_network import site_network, site_seed
from federation.site_scores import balanced_accuracy, fine_tuned
from federation.site_trials import SiteTrials
from federation.tables import parse_table
from mfscsn.settings import Settings
from mfscsn.split import SplitModule
from mfscsn.training import OptimiserState, RoundLog, derive_seed, predict, rounds_of, train_round

PASSES = 10  # over the new site's trials in each of the run's rounds: few trials make few steps
FEW_PASSES = 1  # in the common space, where a head is all that learns
AMOUNTS = (5, 10, 20, 40, 60)  # calibration trials of the curve
SEEDS = 3  # of the curve
_, LOCAL, OURS = METHODS
ADOPTED = "-adopted"  # ends the name of such a run
CALIBRATION = "calibration.csv"  # every adopted run has it, and no other; without rows where there is no curve
CURVE = ("subject", "method", "seed", "n_calibration", "balanced_accuracy")


def adopting(common: AdoptableLayers, site: Site, seed: int | None = None) -> Federation:
    """Describe the federation of one site that adopts common layers."""
    strategy = ONE_MESSAGE if common.contract.strategy == ONE_MESSAGE else "fedavg"
    alone = {"min_sites": None, "secure_aggregation": False, "strategy": strategy, "noise_multiplier": 0.0}
    contract = common.contract.model_copy(update=alone)
    if common.contract.share != "middle":
        raise InputError(
            f"{common.name}: its sites share {common.contract.share!r}; only with 'middle' can another headset take"
            " the common layers"
        )
    for dataset in site.dataset:
        for subject in dataset.subjects or dataset.targets:
            if of_subject(dataset, subject) in common.trained_on:
                raise InputError(
                    f"{dataset.source}: subject {subject!r} trained the common layers of {common.name}: its test trials"
                    " would not be new to them; choose others with --subjects"
                )
    passes = FEW_PASSES if contract.space else PASSES
    training = common.training.model_copy(
        update={"local_epochs": passes * common.training.local_epochs, "fine_tune": 0}
    )
    if seed is not None:  # of what is the site's own; its heads' rows are of the run's seed
        site = site.model_copy(update={"secret_seed": seed})
    document = {
        "name": f"{common.name}{ADOPTED}",
        "contract": contract.model_dump(mode="json", exclude_none=True),
        "training": training.model_dump(mode="json"),
        "site": [site.model_dump(mode="json", exclude_none=True)],
    }
    return parse_table(Federation, document, "adopt")


def adopt(run: RunFolder, common: AdoptableLayers, report: Callable[[Progress], None]) -> list[Score]:
    """Train a site's separate layers around common ones that stay as they are; then its references; then score.

    Parameters
    ----------
    run : RunFolder
        New, of one prepared site, as `adopting` describes it.
    common : AdoptableLayers
    report : callable
        Called with a `Progress` at every step.
    """
    torch.set_num_threads(int(run.environment["threads"]))
    write_csv(run.path / CALIBRATION, CURVE, [])
    (site,), rounds = run.federation.site, run.federation.training.rounds
    trials = run.trials(site)
    trials_digest = trials.digest()
    network = around(run.federation, trials, common)
    began = time.monotonic()
    report(Progress("rounds", 0, rounds))
    for number, log, state in train_site(network, run.federation, trials, private_alone(run.federation.settings)):
        run.site(site.name).save_private(number, network.private_state(), state, trials_digest)
        seconds, began = round(time.monotonic() - began, 3), time.monotonic()
        row = {"round": number, "site": site.name}
        history = {**row, "status": "ok", "n_trials": log.n_trials}
        if math.isfinite(log.loss):  # sums have none
            history |= {"loss": log.loss, "accuracy": log.accuracy}
        run.finish_round(number, common.layers, {}, [history], [{**row, "seconds": seconds, "round_seconds": seconds}])
        report(Progress("rounds", number, rounds, f"loss {log.loss:.3f}" if math.isfinite(log.loss) else ""))
    train_references(run, reference_jobs(run), lambda done, total: report(Progress("references", done, total)))
    scores = evaluate(run)
    _curve(run, common, report)
    return scores


def around(federation: Federation, trials: SiteTrials, common: AdoptableLayers) -> SplitModule:
    """Build a site's network around adopted layers; raise InputError when they do not fit."""
    network = site_network(federation, trials)
    try:
        network.load_common(common.layers)
    except ValueError as error:
        raise InputError(
            f"the common layers of {common.name} do not fit the contract that came with them: {error}"
        ) from error
    return network


def train_site(
    network: SplitModule, federation: Federation, opened: SiteTrials, settings: Settings
) -> Iterator[tuple[int, RoundLog, OptimiserState]]:
    """Train a site's network round by round, in place."""
    trials, state = opened.training(), None
    for number, now in rounds_of(settings):
        seed = derive_seed(site_seed(federation, opened.site), opened.site.name, number)
        log, state = train_round(network, trials, now, seed=seed, optimiser_state=state)
        yield number, log, state


def private_alone(settings: Settings) -> Settings:
    """Return settings with which the common layers stay as they are."""
    return replace(settings, private_first=settings.local_epochs, local_epochs=0)


def _curve(run: RunFolder, common: AdoptableLayers, report: Callable[[Progress], None]) -> None:
    """Train with the first few calibration trials of each target, with common layers and without; score the same test.

    Only where calibration is so many first trials, and none after them are held out: else "the first five" would be of
    another kind, or the test another.
    """
    (site,) = run.federation.site
    most = [d.calibration.first for d in site.dataset if d.targets and d.calibration is not None]
    if not most or any(first is None for first in most) or any(d.held_out for d in site.dataset):
        return
    amounts = sorted({n for n in AMOUNTS if n < min(n for n in most if n)} | {min(n for n in most if n)})
    rows: list[tuple[str, str, int, int, float]] = []
    jobs = [(amount, seed) for amount in amounts for seed in range(SEEDS)]
    for k, (amount, seed) in enumerate(jobs):
        report(Progress("calibration curve", k, len(jobs), f"{amount} trials"))
        federation = _with_calibration(run.federation, site, amount, seed)
        try:
            rows += [(*row, seed, amount, score) for *row, score in _scores(federation, run.store, common)]  # type: ignore[misc]
        except InputError:  # so few trials that one class is missing
            continue
    report(Progress("calibration curve", len(jobs), len(jobs)))
    write_csv(run.path / CALIBRATION, CURVE, rows)


def _with_calibration(federation: Federation, site: Site, amount: int, seed: int) -> Federation:
    def fewer(dataset: Dataset) -> Dataset:
        if not dataset.targets or dataset.calibration is None:
            return dataset
        rest = Part(after=dataset.calibration.first) if dataset.test == "rest" else dataset.test
        return dataset.model_copy(update={"calibration": Part(first=amount), "test": rest})

    datasets = [fewer(dataset) for dataset in site.dataset]
    changed = site.model_copy(update={"dataset": datasets, "secret_seed": site_seed(federation, site) + seed})
    return federation.model_copy(update={"site": [changed]})


def _scores(federation: Federation, store: Path, common: AdoptableLayers) -> Sequence[tuple[str, str, float]]:
    (site,), settings = federation.site, federation.settings
    opened = SiteTrials(site, federation.contract, store)
    adopted, alone = around(federation, opened, common), site_network(federation, opened)
    for network, how in ((adopted, private_alone(settings)), (alone, settings)):
        for _ in train_site(network, federation, opened, how):
            pass
    scores = []
    for target in opened.targets():
        for method, network in ((OURS, adopted), (LOCAL, alone)):
            own = fine_tuned(federation, opened, network, target)
            score = balanced_accuracy(predict(own, target.signals, target.branch), target.labels, target.outputs)
            scores.append((target.subject, method, score))
    return scores
