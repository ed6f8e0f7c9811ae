import mne
import numpy as np
import pytest
from moabb.datasets.base import BaseDataset
from moabb.paradigms import MotorImagery
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from data.errors import InputError
from data.simulated import CENTRES, simulated_dataset
from data.sources import open_source

SMALL = {"n_subjects": 2, "n_runs": 2, "n_trials": 10, "montage": ["FC3", "C3", "CP3", "Cz", "FC4", "C4", "CP4"]}


@pytest.mark.parametrize("name", CENTRES)
def test_every_centre_is_a_moabb_data_set_of_its_montage_rate_and_tasks(name):
    dataset = simulated_dataset(name, {"n_runs": 1, "n_trials": 2})
    assert isinstance(dataset, BaseDataset)
    raw = dataset.get_data([1])[1]["0"]["0"]
    assert raw.info["sfreq"] == CENTRES[name].sfreq and raw.ch_names == dataset.channels
    assert set(raw.annotations.description) == set(CENTRES[name].tasks)
    assert np.isfinite(raw.get_data()).all() and 2e-6 < raw.copy().filter(4, 38).get_data().std() < 3e-5


def test_a_subject_is_always_the_same_and_differs_from_others_and_other_seeds():
    def first(subject, seed=7):
        source = open_source("simulated:clinic", SMALL | {"seed": seed})
        return next(iter(source.recordings(str(subject)))).raw.get_data()

    assert np.array_equal(first(1), first(1))
    assert not np.array_equal(first(1), first(2)) and not np.array_equal(first(1), first(1, seed=8))


def test_imagery_suppresses_mu_over_the_far_hand():
    """Left-hand imagery lowers mu power at C4 more than at C3, right-hand imagery the other way round."""
    sides = []
    for subject in ("1", "2", "3", "4"):
        source = open_source("simulated:university", SMALL | {"n_subjects": 4, "n_trials": 20, "depth": 0.8})
        epochs = mne.concatenate_epochs(
            [
                mne.Epochs(r.raw.load_data().filter(8, 13), tmin=1.0, tmax=3.5, baseline=None, verbose="ERROR")
                for r in source.recordings(subject)
            ]
        )
        power = {
            task: np.log(epochs[task].get_data(picks=["C3", "C4"]).var(axis=2)).mean(axis=0)
            for task in ("left_hand", "right_hand")
        }
        sides.append((power["left_hand"] - power["right_hand"]) @ [1, -1])
    assert np.mean(sides) > 0.2


def test_without_modulation_there_is_nothing_to_learn_and_with_it_there_is():
    """MOABB's own paradigm and a log-variance classifier: chance at depth 0, clearly above at depth 0.8."""
    scores = {}
    for depth in (0.0, 0.8):
        dataset = simulated_dataset("university", SMALL | {"n_trials": 40, "depth": depth, "seed": 5})
        paradigm = MotorImagery(events=["left_hand", "right_hand"], n_classes=2, fmin=8, fmax=24)
        x, y, meta = paradigm.get_data(dataset, subjects=[1, 2])
        features = np.log(x.var(axis=2))
        lda = make_pipeline(LinearDiscriminantAnalysis())
        scores[depth] = np.mean(
            [cross_val_score(lda, features[meta.subject == s], y[meta.subject == s], cv=5).mean() for s in (1, 2)]
        )
    assert scores[0.0] < 0.6 and scores[0.8] > 0.65


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clinik", {}, "expected one of .*; did you mean 'clinic'"),
        ("clinic", {"montge": "eeg16"}, "unknown option 'montge'; did you mean 'montage'"),
        ("clinic", {"n_subjects": "4"}, "option 'n_subjects': input should be a valid integer, found '4'"),
        ("clinic", {"montage": [1]}, "option 'montage'"),
        ("clinic", {"tasks": ["wink"]}, "simulated task 'wink': expected one of"),
        ("clinic", {"montage": ["C3", "C33"]}, "electrode 'C33' is not in the 10-05 system"),
        ("clinic", {"montage": "eeg17"}, "simulated montage 'eeg17': expected one of"),
    ],
)
def test_what_cannot_be_simulated_is_named(name, options, message):
    with pytest.raises(InputError, match=message):
        simulated_dataset(name, options)
