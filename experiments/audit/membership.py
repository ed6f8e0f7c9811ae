"""Audit: was this trial among those that a site trained on? Trials of training have the smaller loss.

Who has all layers reads the loss off. Who has the common layers alone puts first and last layers of their own around
them, trained on other trials of the same headset, as a site that pries could.

References
----------
Yeom et al. 2018, "Privacy risk in machine learning", IEEE CSF.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from experiments.audit.views import View, trained
from mfscsn.branch import BranchTrials
from mfscsn.settings import Settings
from mfscsn.split import SplitModule
from mfscsn.training import derive_seed

N_BOOTSTRAP = 1000
Parts = dict[str, tuple[BranchTrials, BranchTrials, BranchTrials]]


def parted(trials: Mapping[str, BranchTrials], seed: int) -> Parts:
    """Part each branch's trials at random: half train, a quarter do not, a quarter is the attacker's own."""
    parts = {}
    for name, of_branch in trials.items():
        order = np.random.default_rng(derive_seed(seed, name)).permutation(len(of_branch.labels))
        cuts = [len(order) // 2, 3 * len(order) // 4]
        members, others, known = (
            replace(of_branch, signals=np.ascontiguousarray(of_branch.signals[part]), labels=of_branch.labels[part])
            for part in np.split(order, cuts)
        )
        parts[name] = members, others, known
    return parts


def infer_membership(
    target: SplitModule,
    strange: SplitModule,
    parts: Parts,
    settings: Settings,
    view: View,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return a score of every trial, higher where the attacker believes it trained, and whether it did.

    Parameters
    ----------
    target : SplitModule
        The site's network, trained on the members: alone or, for a secure sum, in a federation.
    strange : SplitModule
        The attacker's, with private layers of their own before their first round.
    parts : mapping
        As `parted` gives it.
    """
    target, strange = copy.deepcopy(target), copy.deepcopy(strange)
    seen = {name: value for name, value in target.state_dict().items() if name in view.names(target)}
    if view.everything:
        attacker = target
        attacker.load_state_dict(seen, strict=False)
    else:
        strange.load_state_dict(seen, strict=False)
        known = {name: own for name, (_, _, own) in parts.items()}
        attacker = trained(strange, known, settings, View(), derive_seed(seed, "attacker"), frozen=list(seen))
    scores, truth = [], []
    for name, (members, rest, _) in parts.items():
        for of_part, trained_on in ((members, True), (rest, False)):
            scores.append(-_losses(attacker, of_part, name))
            truth.append(np.full(len(of_part.labels), trained_on))
    return np.concatenate(scores), np.concatenate(truth)


def auc(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return the area under the curve and its 95 % interval, by resampling trials."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(N_BOOTSTRAP):
        chosen = rng.integers(len(truth), size=len(truth))
        if truth[chosen].any() and not truth[chosen].all():
            drawn.append(roc_auc_score(truth[chosen], scores[chosen]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(roc_auc_score(truth, scores)), float(low), float(high)


def _losses(network: SplitModule, trials: BranchTrials, branch: str) -> NDArray[np.float64]:
    network.eval()
    with torch.inference_mode():
        logits = network(torch.from_numpy(np.require(trials.signals, requirements=["C", "W"])), branch)
        losses = F.cross_entropy(logits, torch.from_numpy(trials.labels), reduction="none")
    return losses.double().numpy()
