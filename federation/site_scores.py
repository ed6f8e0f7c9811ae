"""How well a site's network does on its own target subjects' test trials."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import recall_score

from federation.contract import Site
from federation.run_folder import RunFolder
from federation.site_trials import Target, calibration_trials, check_labelled, target_trials
from mfscsn.network import SplitModule
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
    predicted = chosen_outputs(probabilities, outputs)
    # Over the test's own classes: a prediction outside them is simply wrong
    return float(recall_score(labels, predicted, labels=np.unique(labels), average="macro"))


def fine_tuned(run: RunFolder, site: Site, network: SplitModule, target: Target) -> SplitModule:
    """Fit a copy of the site's network to a target subject's calibration, as often as the settings say."""
    settings, seed = run.federation.settings, run.federation.training.seed
    own = calibration_trials(site, run.federation.contract, run.store, target.subject)[target.dataset, target.subject]
    words = (seed, site.name, target.dataset, target.subject, "fine-tune")
    return fine_tune(network, own, target.branch, settings, derive_seed(*words))


def mean_score(run: RunFolder, site: Site) -> dict[str, int | float]:
    """Score the federated network: a mean over the site's target subjects, and how many they are; {} without any."""
    check_labelled(site, run.federation.contract, run.store)
    network = run.load_network(site.name)
    found = [
        balanced_accuracy(
            predict(fine_tuned(run, site, network, target), target.signals, target.branch),
            target.labels,
            target.outputs,
        )
        for target in target_trials(site, run.federation.contract, run.store)
    ]
    return {"n_targets": len(found), "balanced_accuracy": float(np.mean(found))} if found else {}
