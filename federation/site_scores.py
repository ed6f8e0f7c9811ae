"""How well a site's network does on its own target subjects' test trials, and how sure of itself it may be."""

import math

import numpy as np
from numpy.typing import NDArray

from federation.contract import Federation, Site
from federation.run_folder import RunFolder
from federation.site_trials import SiteTrials, Target
from mfscsn.split import SplitModule
from mfscsn.temperature import fitted_temperature
from mfscsn.training import derive_seed, fine_tune, predict


def chosen_outputs(probabilities: NDArray[np.float64], outputs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Predict: the likeliest of the `outputs` that may be, for each row of ``(n_trials, n_outputs)``."""
    chosen: NDArray[np.int64] = outputs[probabilities[:, outputs].argmax(axis=1)]
    return chosen


def balanced_accuracy(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], outputs: NDArray[np.int64]
) -> float:
    """Mean recall over the classes that `labels` holds, with predictions limited to `outputs`.

    Parameters
    ----------
    probabilities : array, shape (n_trials, n_outputs)
    labels : array of int, shape (n_trials,)
    outputs : array of int
        The outputs that may be predicted.
    """
    from sklearn.metrics import recall_score  # slow to load, and neither training nor kept results need it

    predicted = chosen_outputs(probabilities, outputs)
    # Over the test's own classes: a prediction outside them is simply wrong
    return float(recall_score(labels, predicted, labels=np.unique(labels), average="macro"))


def fine_tuned(federation: Federation, trials: SiteTrials, network: SplitModule, target: Target) -> SplitModule:
    """Fit a copy of a site's network to a target subject's calibration, as often as the settings say."""
    settings, seed = federation.settings, federation.training.seed
    own = trials.calibration(target.subject)[target.dataset, target.subject]
    if not len(own.labels):
        return network
    words = (seed, trials.site.name, target.dataset, target.subject, "fine-tune")
    return fine_tune(network, own, target.branch, settings, derive_seed(*words))


def mean_score(run: RunFolder, site: Site) -> dict[str, int | float]:
    """Score the federated network: a mean over the site's target subjects, and how many they are; {} without any."""
    trials = run.trials(site)
    trials.check_labelled()
    network = run.load_network(site.name)
    scores = [
        balanced_accuracy(network_answers(run.federation, trials, network, target), target.labels, target.outputs)
        for target in trials.targets()
    ]
    return {"n_targets": len(scores), "balanced_accuracy": float(np.mean(scores))} if scores else {}


def network_answers(
    federation: Federation, trials: SiteTrials, network: SplitModule, target: Target
) -> NDArray[np.float64]:
    """Return what a site's network, fitted to a target's calibration, says of its trials ``(n_trials, n_outputs)``."""
    return predict(fine_tuned(federation, trials, network, target), target.signals, target.branch)


def held_out_accuracy(federation: Federation, trials: SiteTrials, network: SplitModule) -> float:
    """Return the balanced accuracy on the site's held-out trials, a mean over its targets; NaN where none are."""
    scores = [
        balanced_accuracy(network_answers(federation, trials, network, target), target.labels, target.outputs)
        for target in trials.held_out()
    ]
    return float(np.mean(scores)) if scores else math.nan


def network_temperature(federation: Federation, trials: SiteTrials, network: SplitModule) -> float:
    """Fit the temperature of a site's network on all its held-out trials; 1 where none are."""
    return fitted_temperature(
        [(network_answers(federation, trials, network, target), target.labels) for target in trials.held_out()]
    )
