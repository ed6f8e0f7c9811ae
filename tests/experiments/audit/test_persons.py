"""Who is in a sum, with and without noise: drawn from one seed, so that nothing here is chance."""

import numpy as np
from sklearn.metrics import roc_auc_score

from experiments.audit.persons import seen_in_sum


def area(noise, others_known=True):
    persons = np.random.default_rng(0).standard_normal((12, 200))
    persons /= np.linalg.norm(persons, axis=1)[:, None]
    scores, truth = seen_in_sum(persons, persons, noise, np.random.default_rng(1), others_known)
    return roc_auc_score(truth, scores)


def test_a_sum_without_noise_tells_who_is_in_it_and_noise_hides_it():
    found = [area(noise) for noise in (0.0, 0.5, 1.0, 4.0)]
    assert found[0] == 1.0 and found == sorted(found, reverse=True) and found[-1] < 0.65
    assert area(0.0, others_known=False) > 0.95
