import numpy as np
import pytest

from data.errors import InputError
from experiments.evaluate import check_alike, evaluate
from federation.site_scores import balanced_accuracy


def test_balanced_accuracy_by_hand():
    """Three of one class, two right; one of another, right: (2/3 + 1) / 2."""
    probabilities = np.eye(2)[[0, 0, 1, 1]]
    assert np.isclose(balanced_accuracy(probabilities, np.array([0, 0, 0, 1]), np.array([0, 1])), (2 / 3 + 1) / 2)


def test_only_the_subjects_tasks_are_predicted():
    """The third output is the strongest everywhere, but not among the subject's tasks."""
    probabilities = np.array([[0.3, 0.1, 0.6], [0.1, 0.3, 0.6]])
    assert balanced_accuracy(probabilities, np.array([0, 1]), np.array([0, 1])) == 1.0


def test_a_prediction_that_the_test_does_not_hold_is_wrong_not_a_class():
    probabilities = np.eye(3)[[0, 1, 2, 2]]
    assert balanced_accuracy(probabilities, np.array([0, 1, 0, 1]), np.array([0, 1, 2])) == 0.5


def test_an_unfinished_run_is_refused(make_run):
    with pytest.raises(InputError, match="ended at round 0 of 2; go on with the command that began it"):
        evaluate(make_run())


def test_runs_of_different_configurations_are_not_averaged(make_run):
    one, other_seed, wider = (
        make_run("one"),
        make_run("two", training="seed = 7"),
        make_run("three", contract="width = 9"),
    )
    check_alike([one])
    check_alike([one, other_seed])
    with pytest.raises(InputError, match="three: cannot be averaged with .*one: contract.width was 50, is 9"):
        check_alike([one, other_seed, wider])
