"""What a subject or a site has alone: linear classifiers, against scikit-learn by hand."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from experiments.alone import own_answers, site_answers
from federation.site_trials import Target
from mfscsn.branch import BranchTrials

NAMES = ("left_hand", "right_hand", "rest")


def trials(n, seed, labels=(0, 1)):
    rng = np.random.default_rng(seed)
    codes = np.resize(labels, n).astype(np.int64)
    signals = rng.normal(size=(n, 2, 3)).astype(np.float32)
    signals[codes == 1, 0] += 1
    return BranchTrials(signals, codes, NAMES)


def target(n=7, outputs=(0, 1)):
    held = trials(n, 9)
    return Target("d", "s", "d", held.signals, held.labels, np.array(outputs))


def test_an_own_trial_weighs_as_ten_of_another_subject():
    others, own, held = trials(12, 0), trials(4, 1), target()
    pooled = BranchTrials(
        np.concatenate([others.signals, own.signals]), np.concatenate([others.labels, own.labels]), NAMES
    )
    x = np.concatenate([others.signals, *[own.signals] * 10]).reshape(-1, 6)
    y = np.concatenate([others.labels, *[own.labels] * 10])
    by_hand = LogisticRegression(C=0.003, class_weight="balanced", max_iter=1000).fit(x, y)
    answers = site_answers(pooled, own, held)
    np.testing.assert_allclose(answers[:, :2], by_hand.predict_proba(held.signals.reshape(-1, 6)), atol=1e-4)
    assert answers.shape == (7, 3) and not answers[:, 2].any()


def test_a_site_learns_from_the_targets_tasks_alone():
    pooled = trials(30, 0, labels=(0, 1, 2))
    own = BranchTrials(pooled.signals[:0], pooled.labels[:0], NAMES)
    kept = pooled.labels < 2
    alone = BranchTrials(pooled.signals[kept], pooled.labels[kept], NAMES)
    np.testing.assert_array_equal(site_answers(pooled, own, target()), site_answers(alone, own, target()))


@pytest.mark.parametrize(("labels", "expected"), [((), [0.5, 0.5, 0]), ((1, 1), [0, 1, 0])])
def test_calibration_without_two_classes_says_what_it_can(labels, expected):
    some = trials(4, 0)
    own = BranchTrials(some.signals[: len(labels)], np.array(labels, np.int64), NAMES)
    np.testing.assert_array_equal(own_answers(own, target()), [expected] * 7)
