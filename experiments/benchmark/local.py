"""The benchmark's methods that need no federation: a subject's own calibration, or a site's own subjects together."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt
from scipy.special import softmax

from experiments.alone import OWN_WEIGHT, flattened, on_own_channels, own_answers, site_answers
from experiments.benchmark.federated import Scored, with_shuffled_labels
from federation.contract import Contract, Federation
from federation.site_trials import SiteTrials, Target
from mfscsn.bodies import mirrored_pairs
from mfscsn.branch import BranchTrials
from mfscsn.choices import COMMON_SPACE
from mfscsn.common_space import mirrored
from mfscsn.inputs import Alignment
from mfscsn.split import mirrored_label
from mfscsn.training import derive_seed

Signals = NDArray[np.floating]


@dataclass(frozen=True)
class Given:
    """What an own method is told besides trials: their rate in Hz, a seed, how many trials a network is shown."""

    sfreq: float
    seed: int
    n_shown: int
    batch_size: int


Classify = Callable[[Signals, NDArray[np.int64], Signals, Given], tuple[NDArray[np.int64], NDArray[np.float64]]]

FILTER_BANK = ((6.0, 14.0), (12.0, 20.0), (18.0, 32.0))  # Hz
ONE_BAND = ((8.0, 32.0),)
NETWORK_BATCH, OWN_PASSES = 16, 20  # of an own network: it is shown as many trials as so many passes over its site's
SITE_BATCH, SITE_PASSES = 32, 50  # of a site's network: passes over its trials
RIDGE = 1000.0
# Electrodes that see the eyes, or where a subject attends, and little of the motor strip
REGIONS = {
    "frontal": ("Fp1", "Fp2", "AF3", "AF4", "F7", "F3", "Fz", "F4", "F8"),
    "occipital": ("PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2", "Iz"),
}
FEWEST_THERE = 3  # channels that a headset must have in a region


def run_alone(name: str, federation: Federation, seed: int, store: Path) -> list[Scored]:
    """Train a method of `ALONE` for every target subject and predict its test trials."""
    return list(ALONE[name](federation, seed, store))


def _own(classify: Classify) -> Callable[[Federation, int, Path], Iterator[Scored]]:
    """Return a method that sees a subject's own calibration and nothing else."""

    def run(federation: Federation, seed: int, store: Path) -> Iterator[Scored]:
        contract = _contract(federation, "none")
        for site in federation.site:
            opened = SiteTrials(site, contract, store)
            own = opened.calibration()
            n_shown = OWN_PASSES * opened.n_training()
            for target in opened.targets():
                began = time.process_time()
                trials = own[target.dataset, target.subject]
                words = (seed, site.name, target.dataset, target.subject)
                given = Given(contract.sfreq, derive_seed(*words), n_shown, NETWORK_BATCH)
                known, probabilities = classify(trials.signals, trials.labels, target.signals, given)
                yield _scored(site.name, target, known, probabilities, len(trials.names), began)

    return run


def _site_network(kind: str) -> Callable[[Federation, int, Path], Iterator[Scored]]:
    """Return braindecode's network on a site's own channels, trained on all its subjects; each whitened by its own."""

    def run(federation: Federation, seed: int, store: Path) -> Iterator[Scored]:
        contract = _contract(federation, "euclidean")
        for site in federation.site:
            opened = SiteTrials(site, contract, store)
            pooled, targets = opened.training(), list(opened.targets())
            for branch, trials in pooled.items():
                began = time.process_time()
                of_branch = [target for target in targets if target.branch == branch]
                shown = SITE_PASSES * len(trials.labels)
                given = Given(contract.sfreq, derive_seed(seed, site.name, branch), shown, SITE_BATCH)
                held = [target.signals for target in of_branch]
                if not held:
                    continue
                known, probabilities = _own_network(kind)(trials.signals, trials.labels, np.concatenate(held), given)
                ends = np.cumsum([len(signals) for signals in held])[:-1]
                for target, answers in zip(of_branch, np.split(probabilities, ends), strict=True):
                    yield _scored(site.name, target, known, answers, len(trials.names), began)

    return run


def _site(alignment: str, own_weight: float) -> Callable[[Federation, int, Path], Iterator[Scored]]:
    """Return logistic regression on the tangent vectors of all the site's training trials.

    Own trials of the target weigh `own_weight` times as much as another subject's. Without alignment all tangent
    vectors are at the mean of the site; with it, each subject's at its own.
    """

    def run(federation: Federation, seed: int, store: Path) -> Iterator[Scored]:
        contract = _contract(federation, alignment)
        for site in federation.site:
            opened = SiteTrials(site, contract, store)
            pooled, own = opened.training(), opened.calibration()
            features = {branch: _features(trials, contract) for branch, trials in pooled.items()}
            for target in opened.targets():
                began = time.process_time()
                trials, mine = (
                    replace(part, signals=features[target.branch](part.signals))
                    for part in (pooled[target.branch], own[target.dataset, target.subject])
                )
                aligned = replace(target, signals=features[target.branch](target.signals))
                probabilities = site_answers(trials, mine, aligned, own_weight)
                yield _scored(site.name, target, None, probabilities, len(trials.names), began)

    return run


def of_region(federation: Federation, store: Path, region: str) -> Federation:
    """Keep a region's electrodes alone, and the headsets that have at least three of them; its common space is there.

    Parameters
    ----------
    federation : Federation
        Its trials are prepared.
    store : Path
    region : str
        A key of `REGIONS`.
    """
    electrodes = REGIONS[region]
    sites = []
    for site in federation.site:
        channels = SiteTrials(site, federation.contract, store).channels()
        kept = [
            dataset.model_copy(update={"channels": [c for c in channels[dataset.name] if c in electrodes]})
            for dataset in site.dataset
            if len(set(channels[dataset.name]) & set(electrodes)) >= FEWEST_THERE
        ]
        if kept:
            sites.append(site.model_copy(update={"dataset": kept}))
    contract = federation.contract.model_copy(update={"extractor": COMMON_SPACE, "electrodes": list(electrodes)})
    return federation.model_copy(update={"contract": contract, "site": sites})


def _common(shuffled: bool = False, region: str | None = None) -> Callable[[Federation, int, Path], Iterator[Scored]]:
    """Return a ridge on tangent vectors in the common space, of the training trials of all sites.

    What a site would send for it are sums over its trials, so one message a site gives the same. Own trials of the
    target weigh `OWN_WEIGHT` times as much. Each trial counts as its mirror image too, where labels have one. With
    `shuffled`, a control, the other sites' labels are shuffled within their runs: each site in turn learns from sites
    which have nothing to teach. With `region`, another control, it sees the electrodes there alone: `of_region`.
    """

    def run(federation: Federation, seed: int, store: Path) -> Iterator[Scored]:
        from sklearn.linear_model import Ridge  # slow to load, and neither training nor kept results need it

        federation = of_region(federation, store, region) if region else federation
        changes = {"extractor": COMMON_SPACE, "body": "tangent", "alignment": "adaptive"}
        contract = federation.contract.model_copy(update=changes)
        opened = {site.name: SiteTrials(site, contract, store) for site in federation.site}
        pooled = {name: of_site.training() for name, of_site in opened.items()}
        null = {name: with_shuffled_labels(opened[name], seed) for name in pooled} if shuffled else pooled
        space = list(contract.space)
        places = mirrored_pairs([space.index(mirrored(name)) for name in space])
        for name, of_site in opened.items():
            own = of_site.calibration()
            there = {other: (pooled if other == name else null)[other] for other in pooled}
            x, words = _rows_and_words([trials for branches in there.values() for trials in branches.values()])
            for target in of_site.targets():
                began = time.process_time()
                mine, names = own[target.dataset, target.subject], pooled[name][target.branch].names
                wanted = [names[k] for k in target.outputs]
                own_x, own_words = _rows_and_words([mine])
                kept = np.isin(words, wanted)
                rows, labels = np.concatenate([x[kept], own_x]), np.concatenate([words[kept], own_words])
                weight = np.concatenate([np.ones(kept.sum()), np.full(len(own_words), OWN_WEIGHT - 1)])
                images = np.array([mirrored_label(label) for label in labels])
                if set(images) == set(wanted):
                    across = rows.reshape(len(rows), -1, len(places))[..., places].reshape(len(rows), -1)
                    rows, labels = np.concatenate([rows, across]), np.concatenate([labels, images])
                    weight = np.concatenate([weight, weight])
                coded = np.where(labels[:, None] == np.array(wanted), 1.0, -1.0)
                model = Ridge(alpha=RIDGE, solver="cholesky").fit(rows, coded, sample_weight=weight)
                answers = softmax(model.predict(flattened(target.signals)), axis=1)
                yield _scored(name, target, target.outputs, answers, len(names), began)

    return run


def _rows_and_words(parts: Sequence[BranchTrials]) -> tuple[Signals, NDArray[np.str_]]:
    """Return the tangent vectors of trials, one row each, and the names of their labels."""
    return (
        np.concatenate([flattened(trials.signals) for trials in parts]),
        np.concatenate([np.array(trials.names)[trials.labels] for trials in parts]),
    )


def _scored(
    site: str,
    target: Target,
    known: NDArray[np.int64] | None,
    of_classes: NDArray[np.float64],
    n_outputs: int,
    began: float,
) -> Scored:
    """Score what was said of the classes that a method knew; None is all of them."""
    probabilities = np.zeros((len(of_classes), n_outputs))
    probabilities[:, slice(None) if known is None else known] = of_classes
    return Scored(
        site,
        target.dataset,
        target.subject,
        probabilities,
        target.labels,
        target.outputs,
        time.process_time() - began,
        0,
    )


def _contract(federation: Federation, alignment: str) -> Contract:
    if alignment in ("recentred", "adaptive"):
        return on_own_channels(federation.contract, alignment)
    return federation.contract.model_copy(update={"extractor": "shallow", "alignment": alignment})


def _csp(x: Signals, y: NDArray[np.int64], test: Signals, given: Given) -> Any:
    from mne.decoding import CSP
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(CSP(n_components=6, reg="oas", log=True), LinearDiscriminantAnalysis("lsqr", "auto"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(_band(x, (8.0, 32.0), given.sfreq), y)
        return model.classes_, model.predict_proba(_band(test, (8.0, 32.0), given.sfreq))


def _tangent_space(bands: tuple[tuple[float, float], ...]) -> Classify:
    def classify(x: Signals, y: NDArray[np.int64], test: Signals, given: Given) -> Any:
        from pyriemann.estimation import Covariances
        from pyriemann.tangentspace import TangentSpace
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        parts, tests = [], []
        for band in bands:
            features = make_pipeline(Covariances("oas"), TangentSpace("riemann"))
            parts.append(features.fit_transform(_band(x, band, given.sfreq)))
            tests.append(features.transform(_band(test, band, given.sfreq)))
        model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(np.hstack(parts), y)
        return model.classes_, model.predict_proba(np.hstack(tests))

    return classify


def _own_riemann(alignment: str) -> Callable[[Federation, int, Path], Iterator[Scored]]:
    """Return a subject's own linear classifier on re-centred tangent vectors."""

    def run(federation: Federation, seed: int, store: Path) -> Iterator[Scored]:
        for site in federation.site:
            opened = SiteTrials(site, _contract(federation, alignment), store)
            own = opened.calibration()
            for target in opened.targets():
                began = time.process_time()
                trials = own[target.dataset, target.subject]
                yield _scored(site.name, target, None, own_answers(trials, target), len(trials.names), began)

    return run


def _own_network(kind: str) -> Classify:
    """Return braindecode's network on signals that Euclidean alignment whitens; it is shown `n_shown` trials."""

    def classify(x: Signals, y: NDArray[np.int64], test: Signals, given: Given) -> Any:
        import braindecode.models

        reference = Alignment("euclidean", given.sfreq).fit(x)
        train, held = (torch.from_numpy(reference.inputs(part, follow=False)) for part in (x, test))
        known, codes = np.unique(y, return_inverse=True)
        device = "cuda" if torch.cuda.is_available() else "cpu"  # one of them has 4.4 million weights
        train, held = train.to(device), held.to(device)
        torch.manual_seed(given.seed)
        network = getattr(braindecode.models, kind)(
            n_chans=x.shape[1], n_outputs=len(known), n_times=x.shape[2], sfreq=given.sfreq
        ).to(device)
        labels = torch.from_numpy(codes).to(device)
        counts = torch.bincount(labels).float()
        loss = torch.nn.CrossEntropyLoss(counts.sum() / (len(known) * counts))
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
        network.train()
        size = min(given.batch_size, len(labels))
        for _ in range(math.ceil(given.n_shown / size)):
            batch = torch.randperm(len(labels))[:size]
            optimiser.zero_grad()
            loss(network(train[batch]), labels[batch]).backward()
            optimiser.step()
        network.eval()
        with torch.inference_mode():
            probabilities = torch.cat([network(part).softmax(1) for part in torch.split(held, 128)])
        return known, probabilities.cpu().double().numpy()

    return classify


def _band(signals: Signals, band: tuple[float, float], sfreq: float) -> Signals:
    filtered: Signals = sosfiltfilt(butter(4, band, "bandpass", fs=sfreq, output="sos"), signals.astype(np.float64))
    return filtered


def _features(trials: BranchTrials, contract: Contract) -> Callable[[Signals], Signals]:
    if contract.extractor == "riemann":
        return flattened
    reference = Alignment("recentred", contract.sfreq).fit(trials.signals)
    return lambda signals: flattened(reference.inputs(signals, follow=False))


ALONE: dict[str, Callable[[Federation, int, Path], Iterator[Scored]]] = {
    "own-csp-lda": _own(_csp),
    "own-tangent-space": _own(_tangent_space(ONE_BAND)),
    "own-filter-bank-tangent-space": _own(_tangent_space(FILTER_BANK)),
    "own-recentred": _own_riemann("recentred"),
    "own-adaptive": _own_riemann("adaptive"),
    "own-shallow": _own(_own_network("ShallowFBCSPNet")),
    "own-eegnet": _own(_own_network("EEGNet")),
    "own-eeginception": _own(_own_network("EEGInceptionMI")),
    "site-pooled-uncentred": _site("none", 1.0),
    "site-pooled": _site("recentred", 1.0),
    "site-weighted": _site("recentred", OWN_WEIGHT),
    "site-weighted-adaptive": _site("adaptive", OWN_WEIGHT),
    "common-linear": _common(),
    "common-linear-null": _common(shuffled=True),
    "common-linear-frontal": _common(region="frontal"),
    "common-linear-occipital": _common(region="occipital"),
    "site-eegnet": _site_network("EEGNet"),
}
SEEDED = {
    "site-eegnet",
    "own-shallow",
    "own-eegnet",
    "own-eeginception",
    "common-linear-null",
}  # the others give the same for every seed
