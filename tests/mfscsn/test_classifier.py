"""`MFSCSNClassifier` as scikit-learn, and whoever builds on it, uses it."""

import pickle

import numpy as np
import pytest
import torch
from conftest import LoopGrid
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

import mfscsn
from federation.common_layers import export_common, read_common
from federation.server_app import federate
from mfscsn import MFSCSNClassifier
from mfscsn.exported import read_exported, read_file
from mfscsn.heads import label_rows


def planted(n_trials=60, n_chans=6, n_times=256, seed=0):
    """A wave at one of two channels, by label."""
    rng = np.random.default_rng(seed)
    y = np.array(["left", "right"])[np.arange(n_trials) % 2]
    X = rng.standard_normal((n_trials, n_chans, n_times))
    times = np.arange(n_times) / 128.0
    for trial, label in enumerate(y):
        X[trial, int(label == "right")] += 1.5 * np.sin(2 * np.pi * 11 * times + rng.uniform(0, 6))
    return X, y


@pytest.mark.parametrize("extractor", ["riemann", "shallow"])
def test_it_learns_what_is_there_and_nothing_else(extractor):
    X, y = planted()
    classifier = MFSCSNClassifier(extractor=extractor, epochs=40)
    assert cross_val_score(classifier, X, y, cv=3).mean() > 0.9
    noise = np.random.default_rng(3).standard_normal(X.shape)
    assert cross_val_score(classifier, noise, y, cv=3).mean() < 0.75


def test_probabilities_and_the_same_seed():
    X, y = planted()
    a, b, other = (MFSCSNClassifier(epochs=3, random_state=s).fit(X, y) for s in (0, 0, 1))
    p = a.predict_proba(X)
    assert p.shape == (60, 2) and np.allclose(p.sum(axis=1), 1) and list(a.classes_) == ["left", "right"]
    assert np.array_equal(p, b.predict_proba(X)) and not np.array_equal(p, other.predict_proba(X))
    still = [MFSCSNClassifier(epochs=1, lr=1e-12, weight_decay=0.0, random_state=s).fit(X, y) for s in (0, 1)]
    assert not np.allclose(still[0].predict_proba(X), still[1].predict_proba(X), atol=1e-3)  # first weights differ too
    assert (a.predict(X) == a.classes_[p.argmax(axis=1)]).all()


def test_scikit_learn_checks_what_applies_to_trials():
    """Those of its checks that bring no data of their own, which are two-dimensional; and what the others are about."""
    classifier = MFSCSNClassifier(epochs=2)
    for check in (
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_tags_renamed,
    ):
        check("MFSCSNClassifier", classifier)
    X, y = planted()
    fitted = make_pipeline(clone(classifier).set_params(epochs=20)).fit(X, y)
    assert fitted[0].n_features_in_ == 6 and fitted.score(X, y) > 0.9
    assert clone(fitted[0]).get_params() == classifier.set_params(epochs=20).get_params()  # fitting changes none
    assert not hasattr(clone(fitted[0]), "classes_")
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
    order = np.random.default_rng(0).permutation(len(y))  # a trial's probabilities are its own
    np.testing.assert_allclose(fitted.predict_proba(X[order]), fitted.predict_proba(X)[order], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X[0], y[:6]), r"shape \(6, 256\), expected \(n_trials, n_chans, n_times\)"),
        (lambda X, y: (X, np.full(len(y), "left")), "y has the one class 'left'"),
        (lambda X, y: (np.where(X > 3, np.nan, X), y), "NaN"),
        (lambda X, y: (X, np.linspace(0, 1, len(y))), "continuous"),
        (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
    ],
)
def test_what_it_cannot_take_is_a_value_error(change, message):
    with pytest.raises(ValueError, match=message):
        MFSCSNClassifier(epochs=1).fit(*change(*planted()))


def test_settings_that_do_not_fit_and_other_channels_are_refused():
    X, y = planted()
    with pytest.raises(ValueError, match=r"alignment 'euclidean' does not fit extractor 'riemann'"):
        MFSCSNClassifier(alignment="euclidean").fit(X, y)
    with pytest.raises(ValueError, match="X has 5 channels, but the network was fitted on 6"):
        MFSCSNClassifier(epochs=1).fit(X, y).predict(X[:, :5])


def test_it_continues_from_a_run_and_from_what_was_exported(make_run, tmp_path):
    run = make_run()
    federate(LoopGrid(run), run)
    export_common(run, tmp_path / "card")
    X, y = planted()
    found = []
    for common in (read_common(run.path), tmp_path / "card", str(tmp_path / "card" / "common.safetensors")):
        classifier = MFSCSNClassifier(common=common, train_common=False, epochs=2).fit(X, y)
        layers = classifier.network_.common_state()
        assert all(torch.equal(layers[name], value) for name, value in run.load_common(2).items())
        found.append(classifier.predict_proba(X))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[1], found[2])
    moved = MFSCSNClassifier(common=read_common(run.path), epochs=2).fit(X, y).network_.common_state()
    assert any(not torch.equal(moved[name], value) for name, value in run.load_common(2).items())
    with pytest.raises(ValueError, match="a run's folder; give what federation.common_layers.read_common returns"):
        MFSCSNClassifier(common=run.path).fit(X, y)
    (tmp_path / "odd").mkdir()
    with pytest.raises(ValueError, match="odd/common.safetensors: cannot be read as safetensors"):
        MFSCSNClassifier(common=tmp_path / "odd").fit(X, y)
    with pytest.raises(ValueError, match="sfreq is 100 Hz, the common layers of tiny are of 128 Hz; resample"):
        MFSCSNClassifier(sfreq=100.0, common=tmp_path / "card").fit(X, y)
    with pytest.raises(ValueError, match=r"common layer 'common.0.weight' has shape"):  # a shorter trial
        MFSCSNClassifier(common=tmp_path / "card").fit(X[..., :200], y)


MOTOR = ("FC3", "C3", "Cz", "C4", "FC4", "CP3")


def test_named_channels_take_it_to_the_common_space():
    X, y = planted()
    X[:, [1, 3]] = X[:, [0, 1]]  # the two waves at C3 and C4
    classifier = MFSCSNClassifier(channels=MOTOR, epochs=30)
    assert cross_val_score(classifier, X, y, cv=3).mean() > 0.85
    assert type(classifier.fit(X, y).network_).__name__ == "Anchored"
    order = [5, 0, 3, 1, 2, 4]
    there = (
        MFSCSNClassifier(channels=[MOTOR[k] for k in order], epochs=2).fit(X[:, order], y).predict_proba(X[:, order])
    )
    np.testing.assert_allclose(there, MFSCSNClassifier(channels=MOTOR, epochs=2).fit(X, y).predict_proba(X), atol=1e-3)
    with pytest.raises(ValueError, match=r"needs the names of the 6 channels: channels=\[...\], found 2"):
        MFSCSNClassifier(channels=["C3", "C4"]).fit(X, y)
    with pytest.raises(ValueError, match="no position on the scalp is known of 'C33'"):
        MFSCSNClassifier(channels=[*MOTOR[:5], "C33"]).fit(X, y)


def test_a_head_begins_at_the_rows_of_the_federation(make_run, tmp_path):
    """Whatever the headset, and whatever the seed of the classifier."""
    run = make_run(extractor="common-space")
    federate(LoopGrid(run), run)
    export_common(run, tmp_path / "card")
    assert (tmp_path / "card" / "common.safetensors").stat().st_size < 1_000_000
    X, _ = planted()
    labels = np.array(["rest", "right_hand"])[np.arange(60) % 2]
    words = {"common": tmp_path / "card", "train_common": False, "epochs": 1, "lr": 1e-12}
    classifier = MFSCSNClassifier(channels=MOTOR, random_state=7, **words).fit(X, labels)
    head = classifier.network_.head("site")
    expected = label_rows(head.in_features, ("rest", "right_hand"), run.federation.training.seed)
    torch.testing.assert_close(head.weight.detach(), expected, atol=1e-6, rtol=0)
    layers = classifier.network_.common_state()
    assert all(torch.equal(layers[name], value) for name, value in run.load_common(2).items())
    with pytest.raises(ValueError, match="needs the names of the 6 channels"):
        MFSCSNClassifier(**words).fit(X, labels)


def test_the_package_says_what_it_does_not_have():
    with pytest.raises(AttributeError, match="no attribute 'MFSCSNClassifer'"):
        _ = mfscsn.MFSCSNClassifer


def test_volts_and_trials_of_another_length_are_refused():
    X, y = np.random.default_rng(0).standard_normal((12, 3, 256)), ["a", "b"] * 6
    with pytest.raises(ValueError, match="as EEG in volts does; microvolts are expected"):
        MFSCSNClassifier(epochs=1).fit(1e-5 * X, y)
    model = MFSCSNClassifier(epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="X has 200 samples a trial, but the network was fitted on 256"):
        model.predict(X[:, :, :200])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda layers, about: layers[next(iter(layers))].fill_(torch.nan), "holds a value that is not finite"),
        (
            lambda layers, about: about.update(architecture=about["architecture"].replace("256", "1000000000")),
            "version",
        ),
        (lambda layers, about: about.update(architecture="[" * 9000 + "]" * 9000), "of another version"),
        (lambda layers, about: about.update(training="[]"), "of another version"),
    ],
)
def test_hostile_layers_are_one_line(make_run, tmp_path, spoil, words):
    run = make_run(extractor="common-space")
    federate(LoopGrid(run), run)
    export_common(run, tmp_path / "model")
    layers, about = read_file(tmp_path / "model")
    spoil(layers, about)
    save_file(layers, tmp_path / "bad.safetensors", about)
    with pytest.raises(ValueError, match=words):
        read_exported(tmp_path / "bad.safetensors")
