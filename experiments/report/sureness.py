"""How sure a run's networks are of their answers, beside how many are right; with their temperature and without it."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.evaluate import METHODS, PROBABILITY
from mfscsn.temperature import LEAST, tempered

OURS = METHODS[2]


def sureness(predictions: pd.DataFrame, temperatures: Mapping[str, float]) -> pd.DataFrame:
    """Average over each site's test trials, and over all.

    Parameters
    ----------
    predictions : DataFrame
        As ``predictions.csv``, as text.
    temperatures : mapping of str to float
        Of the federated network, by site; a site without has its probabilities as the network gave them.

    Returns
    -------
    DataFrame
        Indexed by site and then "all": `sure`, the likeliest label's probability, `right`, its share of right answers,
        `log_loss`; `sure_without` and `log_loss_without` a temperature (NaN where there is none), and `n_trials`.
    """
    named = [name for name in map(str, predictions) if name.startswith(PROBABILITY)]
    ours = predictions[predictions["method"] == OURS]
    labels = [named.index(f"{PROBABILITY}{name}") for name in ours["label"]]
    told = ours[named].apply(pd.to_numeric).fillna(0.0).to_numpy(dtype=float)
    by_trial = [temperatures.get(site, np.nan) for site in ours["site"]]
    raw = np.concatenate([tempered(row[None], 1 / t) for row, t in zip(told, by_trial, strict=True)])
    trials = pd.DataFrame(
        {
            "site": ours["site"],
            "sure": told.max(axis=1),
            "right": (ours["label"] == ours["predicted"]).astype(float),
            "log_loss": -np.log(np.maximum(told[np.arange(len(told)), labels], LEAST)),
            "sure_without": raw.max(axis=1),
            "log_loss_without": -np.log(np.maximum(raw[np.arange(len(raw)), labels], LEAST)),
        }
    )
    both = pd.concat([trials, trials.assign(site="all")])
    grouped = both.groupby("site", sort=False)
    means: pd.DataFrame = grouped.mean()
    return means.assign(n_trials=grouped.size())
