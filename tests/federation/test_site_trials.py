import json

import numpy as np
import pytest
from conftest import federation_of, tiny_toml

from data.errors import InputError
from data.store import Store
from data.trials import UNLABELLED
from federation.contract import Federation, Site
from federation.site_trials import SiteTrials, branch_names
from mfscsn.branch import Branch


@pytest.fixture
def tiny(tmp_path) -> Federation:
    return federation_of(tiny_toml(), tmp_path)


def test_source_subjects_train_whole_and_targets_with_their_calibration(tiny, prepared):
    north, south = tiny.site
    assert len(SiteTrials(north, tiny.contract, prepared).training()["clinic"].labels) == 2 * 16 + 8
    assert len(SiteTrials(south, tiny.contract, prepared).training()["laboratory"].labels) == 2 * 12
    assert [(t.subject, len(t.labels)) for t in SiteTrials(south, tiny.contract, prepared).targets()] == [
        ("1", 12),
        ("2", 12),
    ]
    assert list(SiteTrials(north, tiny.contract, prepared).calibration()) == [("clinic", "3")]
    assert SiteTrials(south, tiny.contract, prepared).branches() == {
        "laboratory": Branch(3, 3, ("left_hand", "right_hand", "rest"))
    }


def test_signals_without_labels_fit_the_mean_and_train_nothing(tiny, prepared, tmp_path):
    """Of the clinic's target 3, whose run 0 is calibration."""
    shown = federation_of(tiny_toml().replace('{ runs = ["0"] }', '{ runs = ["0"], first = 0 }'), tmp_path)
    labelled, unlabelled = (SiteTrials(f.site[0], f.contract, prepared) for f in (tiny, shown))
    assert (labelled.n_training(), unlabelled.n_training()) == (2 * 16 + 8, 2 * 16)
    assert unlabelled.training()["clinic"].signals.shape[0] == 2 * 16
    assert len(unlabelled.calibration()["clinic", "3"].labels) == 0
    (before,), (after,) = labelled.targets(), unlabelled.targets()
    np.testing.assert_array_equal(after.signals, before.signals)  # as if calibration had been labelled
    np.testing.assert_array_equal(after.labels, before.labels)
    assert after.outputs.tolist() == [0, 1]


def test_of_who_has_shown_nothing_the_mean_begins_as_the_others_and_follows_in_time(
    tiny, prepared, copied_store, tmp_path
):
    text = tiny_toml(extractor="riemann").replace('{ runs = ["0"] }', "{ first = 0 }")
    f = federation_of(text, tmp_path)
    opened = SiteTrials(f.site[0], f.contract, prepared)
    (target,) = opened.targets()
    assert len(target.labels) == 16 and opened.n_training() == 2 * 16
    store = Store(f.site[0].dataset[0].recipe(f.contract).folder(prepared))
    others = np.concatenate([store.trials(name).signals for name in ("1", "2")])
    reference = f.contract.alignment_model.fit(others, store.trials("3").channels)
    wanted = reference.inputs(store.trials("3").signals, follow=True)
    np.testing.assert_allclose(target.signals, wanted, atol=1e-5)
    path = f.site[0].dataset[0].recipe(f.contract).folder(copied_store) / "sub-3.npy"
    signals = np.load(path)
    signals[8:] = 10 * np.random.default_rng(0).normal(size=signals[8:].shape)
    np.save(path, signals)
    (later_spoilt,) = SiteTrials(f.site[0], f.contract, copied_store).targets()
    np.testing.assert_array_equal(later_spoilt.signals[:8], target.signals[:8])  # nothing of later trials is used

    alone = federation_of(text.replace("targets = [3]", "subjects = [3]\ntargets = [3]"), tmp_path)
    with pytest.raises(InputError, match="target '3' shows nothing, and no other subject is there to begin with"):
        list(SiteTrials(alone.site[0], alone.contract, prepared).targets())


def test_labels_are_numbers_in_the_order_of_the_tasks(tiny, prepared):
    dataset = tiny.site[0].dataset[0]
    store = Store(dataset.recipe(tiny.contract).folder(prepared))
    expected = np.concatenate([store.trials("1").labels, store.trials("2").labels])
    codes = SiteTrials(tiny.site[0], tiny.contract, prepared).training()["clinic"].labels[:32]
    assert np.array_equal(np.array(["right_hand", "rest"])[codes], expected)


def test_alignment_sees_training_trials_alone(tiny, prepared, copied_store):
    """Noise in place of a target's test trials changes no training trial and no fitted alignment."""
    before = SiteTrials(tiny.site[0], tiny.contract, prepared).training()["clinic"].signals
    path = tiny.site[0].dataset[0].recipe(tiny.contract).folder(copied_store) / "sub-3.npy"
    signals = np.load(path)
    signals[8:] = 1e3 * np.random.default_rng(0).normal(size=signals[8:].shape)
    np.save(path, signals)
    after = SiteTrials(tiny.site[0], tiny.contract, copied_store).training()["clinic"].signals
    assert np.array_equal(before, after)
    (target,) = SiteTrials(tiny.site[0], tiny.contract, copied_store).targets()
    assert target.signals.std() > 10


def test_calibration_is_white_after_alignment(tiny, prepared):
    for trials in SiteTrials(tiny.site[1], tiny.contract, prepared).calibration().values():
        covariance = np.mean([x @ x.T / x.shape[1] for x in trials.signals.astype(float)], axis=0)
        assert np.allclose(covariance, np.eye(3), atol=1e-3)


def test_without_alignment_signals_stay_in_microvolts(tmp_path, prepared):
    tiny = federation_of(tiny_toml('alignment = "none"'), tmp_path)
    store = Store(tiny.site[0].dataset[0].recipe(tiny.contract).folder(prepared))
    signals = SiteTrials(tiny.site[0], tiny.contract, prepared).training()["clinic"].signals
    assert np.array_equal(signals[:16], store.trials("1").signals)


def test_a_branch_for_each_subject(tmp_path, prepared):
    tiny = federation_of(tiny_toml(north='branch_by = "subject"'), tmp_path)
    trials = SiteTrials(tiny.site[0], tiny.contract, prepared).training()
    assert {name: len(t.labels) for name, t in trials.items()} == {"clinic-1": 16, "clinic-2": 16, "clinic-3": 8}


def test_predictions_are_limited_to_the_tasks_of_the_calibration(tmp_path, prepared, copied_store):
    """Its first 12 trials are the calibration of a target of the south; labels of the test have no say."""
    tiny = federation_of(tiny_toml(), tmp_path)
    folder = tiny.site[1].dataset[0].recipe(tiny.contract).folder(copied_store)
    manifest = json.loads((folder / "manifest.json").read_text())

    def outputs(calibration: dict[str, str], test: dict[str, str]):
        known = {name: list(entry["labels"]) for name, entry in manifest["subjects"].items()}
        changed = json.loads(json.dumps(manifest))
        changed["subjects"]["1"]["labels"] = [
            (calibration if k < 12 else test).get(label, label) for k, label in enumerate(known["1"])
        ]
        (folder / "manifest.json").write_text(json.dumps(changed))
        first, second = SiteTrials(tiny.site[1], tiny.contract, copied_store).targets()
        assert second.outputs.tolist() == [0, 1, 2]
        return first.outputs.tolist()

    never = {"left_hand": "rest"}
    assert outputs(never, never) == [1, 2] and outputs(never, {}) == [1, 2]
    assert outputs({}, {"left_hand": "rest", "right_hand": "rest"}) == [0, 1, 2]
    assert outputs({"left_hand": "rest", "right_hand": "rest"}, {}) == [0, 1, 2]  # one task tells nothing


def test_a_branch_of_one_class_is_refused(tmp_path, prepared):
    text = tiny_toml().replace("first = 12", "first = 1").replace("targets = [1, 2]", "subjects = [1]\ntargets = [1]")
    tiny = federation_of(text, tmp_path)
    with pytest.raises(InputError, match="site 'south': the training trials of 'laboratory' hold the one class"):
        SiteTrials(tiny.site[1], tiny.contract, prepared).check()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('runs = ["0"]', 'runs = ["7"]', r"target '3': calibration = {'runs': \['7'\]} chooses no trial; there are 16"),
        ("first = 12", "first = 999", "target '1': calibration takes all 24 trials and leaves none to test"),
        ('runs = ["0"] }', 'runs = ["0"] }\ntest = { runs = ["0", "1"] }', "8 trials are in calibration and in test"),
        ('runs = ["0"] }', 'runs = ["0"] }\nheld_out = { after = 99 }', "held_out = {'after': 99} chooses no trial"),
        ('runs = ["0"] }', 'runs = ["0"] }\nheld_out = { first = 3 }', "3 trials are in calibration and in held_out"),
        (
            'runs = ["0"] }',
            'runs = ["0"], first = 6 }\nheld_out = { runs = ["0"], after = 6 }\ntest = { after = 7 }',
            "1 trials are in held_out and in test",
        ),
        ("targets = [3]", "subjects = [9]", "subject '9' is not prepared"),
    ],
)
def test_a_split_that_does_not_fit_is_named(tmp_path, prepared, old, new, message):
    text = tiny_toml().replace(old, new, 1)
    tiny = federation_of(text, tmp_path)
    with pytest.raises(InputError, match=message):
        for site in tiny.site:
            SiteTrials(site, tiny.contract, prepared).check()


def unlabel(dataset, contract, store, subject, trials):
    """Take the labels of some trials out of a store."""
    path = dataset.recipe(contract).folder(store) / "manifest.json"
    manifest = json.loads(path.read_text())
    labels = manifest["subjects"][subject]["labels"]
    manifest["subjects"][subject]["labels"] = [UNLABELLED if k in trials else label for k, label in enumerate(labels)]
    path.write_text(json.dumps(manifest))


def test_unlabelled_trials_of_a_source_subject_do_not_train(tiny, copied_store):
    site = tiny.site[0]
    unlabel(site.dataset[0], tiny.contract, copied_store, "1", range(5))
    trials = SiteTrials(site, tiny.contract, copied_store).training()["clinic"]
    assert len(trials.labels) == 2 * 16 + 8 - 5 and trials.labels.min() >= 0
    SiteTrials(site, tiny.contract, copied_store).check_labelled()


def test_unlabelled_test_trials_have_no_code_and_cannot_be_scored(tiny, copied_store):
    site = tiny.site[0]
    unlabel(site.dataset[0], tiny.contract, copied_store, "3", range(8, 16))
    (target,) = SiteTrials(site, tiny.contract, copied_store).targets()
    assert target.labels.tolist() == [-1] * 8 and target.outputs.tolist() == [0, 1]
    with pytest.raises(InputError, match="site 'north', data set 'clinic', target '3': its test trials have no labels"):
        SiteTrials(site, tiny.contract, copied_store).check_labelled()


def test_unlabelled_calibration_is_refused(tiny, copied_store):
    unlabel(tiny.site[0].dataset[0], tiny.contract, copied_store, "3", range(2))
    with pytest.raises(InputError, match="2 calibration trials have no label"):
        SiteTrials(tiny.site[0], tiny.contract, copied_store).check()


def test_transductive_alignment_is_fitted_on_the_test_trials(tiny, prepared):
    for target in SiteTrials(tiny.site[1], tiny.contract, prepared).targets(transductive=True):
        covariance = np.mean([x @ x.T / x.shape[1] for x in target.signals.astype(float)], axis=0)
        assert np.allclose(covariance, np.eye(3), atol=1e-3)


WHOLE = 'calibration = { runs = ["0"] }'
HELD_OUT = WHOLE, 'calibration = { runs = ["0"], first = 5 }\nheld_out = { runs = ["0"], after = 5 }'


def test_what_is_held_out_neither_trains_nor_is_tested_nor_fits_the_mean(tmp_path, tiny, prepared):
    site = federation_of(tiny_toml().replace(*HELD_OUT), tmp_path).site[0]
    held, whole = SiteTrials(site, tiny.contract, prepared), SiteTrials(tiny.site[0], tiny.contract, prepared)
    (out,), (test,), (before,) = held.held_out(), held.targets(), whole.targets()
    assert len(out.labels) == 3 and held.n_training() == whole.n_training() - 3 == 2 * 16 + 5
    assert (test.labels == before.labels).all() and len(test.labels) == 8
    assert (out.labels == whole.calibration()["clinic", "3"].labels[5:]).all()
    five = tiny_toml().replace(WHOLE, 'calibration = { runs = ["0"], first = 5 }\ntest = { runs = ["1"] }')
    (alone,) = SiteTrials(federation_of(five, tmp_path).site[0], tiny.contract, prepared).targets()
    assert (test.signals == alone.signals).all()
    assert not list(whole.held_out())
    assert site.metrics == ["loss", "accuracy", "held_out", "seconds"] and "held_out" not in tiny.site[0].metrics


def test_held_out_trials_need_labels_and_targets(tmp_path, tiny, copied_store):
    site = federation_of(tiny_toml().replace(*HELD_OUT), tmp_path).site[0]
    unlabel(site.dataset[0], tiny.contract, copied_store, "3", [6])
    with pytest.raises(InputError, match="target '3': 1 held_out trials have no label, so they cannot be scored"):
        SiteTrials(site, tiny.contract, copied_store).check()
    text = tiny_toml().replace("targets = [3]", "held_out = { after = 3 }").replace(WHOLE, "")
    with pytest.raises(InputError, match="held_out holds trials of targets; name some"):
        federation_of(text, tmp_path)


def test_branches_of_names_that_would_come_out_alike_differ():
    site = Site(name="a", branch_by="subject")
    pairs = [("d", "p.1"), ("d", "p_1"), ("d", "p2"), ("d-p2", "x"), ("d", "p2-x")]
    names = branch_names(site, pairs)
    assert len(set(names.values())) == 5 and names["d", "p2"] == "d-p2" and not any("." in n for n in names.values())
    assert branch_names(site, [("d", "p.1")]) == {("d", "p.1"): "d-p_1"}  # seeds and private layers hang on it
    assert set(branch_names(site.model_copy(update={"branch_by": "dataset"}), pairs).values()) == {"d", "d-p2"}
