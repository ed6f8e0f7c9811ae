"""Alone: linear classifiers, the strongest that a subject or a site has by itself on its own channels.

Logistic regression on tangent vectors of covariances, re-centred at each subject's own mean, which follows the test
trials as they come. A small network on so few trials does worse.

References
----------
Tangent vectors: Barachant et al. 2012, IEEE Transactions on Biomedical Engineering 59(4):920-928. Re-centring:
Zanini et al. 2018, IEEE Transactions on Biomedical Engineering 65(5):1107-1116.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from federation.contract import Contract, Site
from federation.site_trials import SiteTrials, Target
from mfscsn.branch import BranchTrials

OWN_PENALTY, SITE_PENALTY = 0.1, 0.003  # C of scikit-learn: of a subject's classifier, and of a site's
OWN_WEIGHT = 10.0  # of a subject's own trials among its site's

Answers = NDArray[np.float64]


def on_own_channels(contract: Contract, alignment: str = "adaptive") -> Contract:
    """Return the contract with which trials come as tangent vectors of a headset's own channels."""
    return contract.model_copy(update={"extractor": "riemann", "alignment": alignment})


def own_answers(own: BranchTrials, target: Target) -> Answers:
    """Learn from a subject's calibration alone, and return its test trials' probabilities ``(n_trials, n_outputs)``."""
    return _answers(flattened(own.signals), own.labels, None, target, len(own.names), OWN_PENALTY)


def site_answers(pooled: BranchTrials, own: BranchTrials, target: Target, own_weight: float = OWN_WEIGHT) -> Answers:
    """Learn from all of a site's training trials with the target's tasks, and return its test trials' probabilities.

    Parameters
    ----------
    pooled : BranchTrials
        Of the target's branch, its calibration among them.
    own : BranchTrials
        The target's calibration.
    target : Target
    own_weight : float
        How many times as much an own trial weighs as another subject's.

    Returns
    -------
    array, shape (n_trials, n_outputs)
    """
    kept = np.isin(pooled.labels, target.outputs)
    x, y = flattened(pooled.signals[kept]), pooled.labels[kept]
    # The subject's trials are among the site's already: once more for what is missing to their weight
    weight = np.concatenate([np.ones(len(y)), np.full(len(own.labels), own_weight - 1)])
    x, y = np.concatenate([x, flattened(own.signals)]), np.concatenate([y, own.labels])
    return _answers(x[weight > 0], y[weight > 0], weight[weight > 0], target, len(own.names), SITE_PENALTY)


class LinearSite:
    """A site's linear classifier.

    Parameters
    ----------
    site : Site
    contract : Contract
    store : Path
        The folder of prepared trials.
    """

    def __init__(self, site: Site, contract: Contract, store: Path):
        self.opened = SiteTrials(site, on_own_channels(contract), store)

    @functools.cached_property
    def pooled(self) -> dict[str, BranchTrials]:
        """The site's training trials, by branch."""
        return self.opened.training()

    def targets(self) -> Iterator[tuple[Target, BranchTrials]]:
        """Load each target subject's test trials, in the order of the site's file, and its calibration."""
        return self._with_calibration(self.opened.targets())

    def held_out(self) -> Iterator[tuple[Target, BranchTrials]]:
        """Load what was held out of each target subject's calibration, and the calibration that is left."""
        return self._with_calibration(self.opened.held_out())

    def _with_calibration(self, targets: Iterator[Target]) -> Iterator[tuple[Target, BranchTrials]]:
        for target in targets:
            yield target, self.opened.calibration(target.subject)[target.dataset, target.subject]

    def of_site(self, target: Target, own: BranchTrials) -> Answers:
        """Return what all the site's subjects together say: `site_answers`."""
        return site_answers(self.pooled[target.branch], own, target)


def flattened(tangents: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return a row a trial."""
    return tangents.reshape(len(tangents), int(np.prod(tangents.shape[1:])))  # -1 knows no size of no trial


def _answers(
    x: NDArray[np.floating],
    y: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    target: Target,
    n_outputs: int,
    penalty: float,
) -> Answers:
    from sklearn.linear_model import LogisticRegression  # slow to load, and neither training nor kept results need it

    answers = np.zeros((len(target.labels), n_outputs))
    known = np.unique(y)
    if len(known) < 2:  # nothing to learn from: the one class that was seen or, where none was, all alike
        answers[:, known if len(known) else target.outputs] = 1.0
        alike: Answers = answers / answers.sum(axis=1, keepdims=True)
        return alike
    with threadpool_limits(limits=1, user_api="blas"):  # the same on every machine's number of cores
        model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=1000).fit(x, y, sample_weight=weight)
        answers[:, model.classes_] = model.predict_proba(flattened(target.signals))
    return answers
