import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import mfscsn
from mfscsn.common_space import ELECTRODES
from mfscsn.inputs import Alignment

CHANNELS = ["F3", "F4", "C3", "Cz", "C4"]


def trials(n_trials=60, seed=0):
    """Right-hand trials are quieter over C3, left-hand ones over C4."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_trials) % 2
    signals = rng.normal(size=(n_trials, len(CHANNELS), 200))
    signals[labels == 1, 2] *= 0.4
    signals[labels == 0, 4] *= 0.4
    return signals, labels


def log_power(z):
    return np.log(z.var(axis=-1) + 1e-6)


def test_it_stands_in_a_pipeline_and_can_be_cloned():
    X, y = trials()
    pipeline = make_pipeline(mfscsn.CommonSpace(CHANNELS), FunctionTransformer(log_power), LogisticRegression())
    assert cross_val_score(clone(pipeline), X, y, cv=3).mean() > 0.9


def test_one_classifier_serves_two_headsets():
    X, y = trials()
    other, truth = trials(seed=1)
    fewer = mfscsn.CommonSpace(CHANNELS[2:]).fit_transform(other[:, 2:])
    model = LogisticRegression().fit(log_power(mfscsn.CommonSpace(CHANNELS).fit_transform(X)), y)
    assert model.score(log_power(fewer), truth) > 0.8


@pytest.mark.parametrize("follow", [False, True])
def test_it_is_what_a_site_does(follow):
    X, _ = trials()
    ours = mfscsn.CommonSpace(CHANNELS, "motor11", follow=follow).fit(X[:20]).transform(X[20:])
    reference = Alignment("adaptive", 128.0, electrodes=ELECTRODES["motor11"]).fit(X[:20], CHANNELS)
    np.testing.assert_array_equal(ours, reference.inputs(X[20:], follow=follow))


def test_faults_are_named():
    X, _ = trials()
    with pytest.raises(ValueError, match=r"expected \(n_trials, 4 channels, n_times\)"):
        mfscsn.CommonSpace(CHANNELS[1:]).fit(X)
    with pytest.raises(ValueError, match=r"is known of 'C33' \(nearest: 'C3'\)"):
        mfscsn.CommonSpace(["F3", "F4", "C33", "Cz", "C4"]).fit(X)
    with pytest.raises(ValueError, match="no set of electrodes 'motor12'"):
        mfscsn.CommonSpace(CHANNELS, "motor12").fit(X)
