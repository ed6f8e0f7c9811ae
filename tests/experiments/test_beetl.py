"""From the competition's files to an answer: the federation, the merging of labels, the order, the score."""

import json
import shutil

import numpy as np
import pytest
from conftest import planted_trials

from data.beetl import A, B
from data.beetl_answer import read_codes
from data.errors import InputError
from experiments import beetl_tune
from experiments.beetl import (
    Predicted,
    Task,
    answer,
    beetl_federation,
    begin,
    check_resumed,
    submitted,
    task_of,
    train,
)
from experiments.beetl_tune import candidates, choose, write_settings
from experiments.cli import _simulate_new
from experiments.score import points
from federation.contract import read_toml

QUICK = {"training": {"rounds": 2, "lr": 1e-3, "local_epochs": 3}}


def small(federation):
    """The same with source data sets that are simulated in a second."""
    sites = []
    for site in federation.site:
        (dataset,) = site.dataset
        if dataset.source.startswith("simulated:"):
            options = {**dataset.options, "n_subjects": 1, "n_runs": 1, "n_trials": 4, "sfreq": 128.0}
            dataset = dataset.model_copy(update={"options": options})
        sites.append(site.model_copy(update={"dataset": [dataset]}))
    return federation.model_copy(update={"site": sites})


@pytest.fixture(scope="session")
def beetl_store(tmp_path_factory):
    return tmp_path_factory.mktemp("beetl-store")


def ended(competition, folder, store, method="mf-scsn", **about):
    task = Task(str(competition), sources="simulated", method=method, **about)
    run = begin(task, small(beetl_federation(task, QUICK)), folder / method, store, 1, lambda *_: None)
    train(run, method, lambda _: None)
    return run


def test_the_federation_has_five_sites_with_their_own_channels_and_labels(competition):
    federation = beetl_federation(Task(str(competition)))
    sources = [site.dataset[0].source.partition(":")[::2] for site in federation.site]
    assert sources[2:] == [("moabb", "Cho2017"), ("moabb", "PhysionetMI"), ("moabb", "BNCI2014_001")]
    assert [kind for kind, _ in sources[:2]] == ["beetl", "beetl"]
    a, b = (site.dataset[0] for site in federation.site[:2])
    assert a.channels is None and b.channels is None and federation.contract.channels is None
    assert a.labels(federation.contract) == A.tasks and b.labels(federation.contract) == B.tasks
    assert a.targets == ["S1", "S2", "S3"] and b.targets == ["S4", "S5"] and a.options["leaderboard"]


def test_what_depends_on_the_task(competition, tmp_path):
    at = str(competition)
    null = beetl_federation(Task(at, sources="null"))
    assert [site.dataset[0].options for site in null.site[2:]] == [{"depth": 0.0}] * 3
    leaderboard = beetl_federation(Task(at, phase="leaderboard"))
    assert [site.dataset[0].targets for site in leaderboard.site[:2]] == [["S1", "S2"], ["S3", "S4", "S5"]]
    assert "leaderboard" not in leaderboard.site[0].dataset[0].options
    local = beetl_federation(Task(at, method="local-site"))
    assert [site.name for site in local.site] == ["A", "B"]
    baseline = beetl_federation(Task(at, method="baseline"))
    assert len(baseline.contract.channels) == 17 and baseline.contract.alignment == "standard"
    assert baseline.site[0].dataset[0].labels(baseline.contract) == ("rest", "left_hand", "other")
    assert baseline.site[1].dataset[0].labels(baseline.contract) == ("left_hand", "right_hand", "other")
    shutil.copytree(competition / "finalMI", tmp_path / "finalMI", copy_function=lambda *_: None)
    assert "leaderboard" not in beetl_federation(Task(str(tmp_path))).site[0].dataset[0].options
    fold = beetl_federation(Task(at), held_out=2)
    assert fold.site[0].dataset[0].test.runs == ["race2"] and "race2" not in fold.site[0].dataset[0].calibration.runs
    assert fold.site[1].dataset[0].test.runs == ["block2"] and len(fold.site[1].dataset[0].calibration.runs) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": {"rouds": 3}}, "training, rouds: unknown key; did you mean 'rounds'"),
        ({"site": []}, r"expected the tables \[contract\] and \[training\]"),
        ({"contract": {"shrinkage": 2.0}}, "contract, shrinkage: expected less than or equal to 1"),
    ],
)
def test_odd_settings_are_named(competition, settings, message):
    with pytest.raises(InputError, match=message):
        beetl_federation(Task(str(competition)), settings)


def test_merged_classes_count_the_mean_of_their_members():
    """Outputs rest, left, right, feet of A: "other" is right and feet together, each half."""
    probabilities = np.array([[0.3, 0.2, 0.45, 0.05], [0.2, 0.2, 0.35, 0.25], [0.1, 0.15, 0.0, 0.75]])
    codes = np.array([A.answer_codes[task] for task in A.tasks])
    assert submitted(probabilities, codes).tolist() == [0, 2, 2]


def test_a_run_answers_in_the_organisers_order_and_is_scored(competition, tmp_path, beetl_store):
    """Through real Flower. The planted trials are easy, so an answer in another order would be near chance."""
    run = ended(competition, tmp_path, beetl_store)
    first, second = answer(run, transductive=True)
    assert first.score is not None and first.score.total > 45 and second.score is not None
    assert all(part.score > 38 for part in first.score.datasets)
    truth = np.concatenate(
        [np.minimum(planted_trials(t, k, 3)[1][-200:], 2) for t, n in ((A, 3), (B, 2)) for k in range(1, n + 1)]
    )
    assert points(read_codes(first.path), truth) == pytest.approx(first.score.total)
    assert np.array_equal(read_codes(run.path / "answer.zip"), read_codes(run.path / "answer.txt"))
    assert second.path.name == "answer-transductive.txt"
    assert not np.array_equal(read_codes(second.path), read_codes(first.path))
    kept = json.loads((run.path / "score.json").read_text())
    assert kept["answer"]["total"] == pytest.approx(first.score.total)
    assert [site.name for site in run.federation.site] == ["A", "B", "cho", "physionet", "bnci"]
    task = task_of(run)
    check_resumed(run, task, competition, {}, None, None, None)
    for change, message in (
        ({"given": {"method": "baseline"}}, "begun with --method mf-scsn, not baseline"),
        ({"seed": 4}, "begun with --seed 0, not 4"),
        ({"data": tmp_path}, "begun with --data"),
        ({"rounds": 9}, "begun with --rounds 2, not 9"),
    ):
        words = {"data": None, "given": {}, "seed": None, "rounds": None, "settings": None} | change
        with pytest.raises(InputError, match=message):
            check_resumed(run, task, **words)
    (tmp_path / "other.toml").write_text("[contract]\nwidth = 20\n")
    with pytest.raises(InputError, match="contract.width was 50, is 20"):
        check_resumed(run, task, None, {}, None, None, tmp_path / "other.toml")


def test_labels_of_test_trials_change_no_answer_and_no_labels_mean_no_score(linked, competition, tmp_path, beetl_store):
    whole = ended(competition, tmp_path / "whole", beetl_store, "baseline")
    (with_labels,) = answer(whole)
    assert with_labels.score is not None and with_labels.score.total > 40
    (linked / "final_MI_label.txt").unlink()
    (linked / "SHA256SUMS").unlink()
    bare = ended(linked, tmp_path / "bare", beetl_store, "baseline")
    (without,) = answer(bare)
    assert without.score is None and not (bare.path / "score.json").exists()
    assert np.array_equal(read_codes(without.path), read_codes(with_labels.path))


def test_the_target_sites_unshared(competition, tmp_path, beetl_store):
    run = ended(competition, tmp_path, beetl_store, "local-site")
    (found,) = answer(run)
    assert found.score is not None and found.score.total > 45
    (run.path / "beetl.json").unlink()
    with pytest.raises(InputError, match="no run of `mfscsn beetl run`"):
        answer(run)


def test_a_wrong_label_file_is_refused_before_anything_is_trained(linked, tmp_path, beetl_store):
    (linked / "final_MI_label.txt").unlink()
    (linked / "final_MI_label.txt").write_text("0\n1\n" * 500)
    with pytest.raises(InputError, match=r"final_MI_label\.txt: not the file that SHA256SUMS lists"):
        ended(linked, tmp_path, beetl_store, "baseline")
    (linked / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="not the organisers' labels"):
        ended(linked, tmp_path, beetl_store, "baseline")
    assert not (tmp_path / "baseline").exists()


def test_unlabelled_targets_cannot_be_simulated(competition, tmp_path, beetl_store):
    federation = beetl_federation(Task(str(competition), method="local-site"), QUICK)
    with pytest.raises(InputError, match="its test trials have no labels"):
        _simulate_new(federation, tmp_path / "run", beetl_store, 1)
    assert not (tmp_path / "run").exists()


def test_candidates_are_crossed():
    grid = candidates(["training.lr=5e-4,1e-3", "contract.weighting=equal,trials"])
    assert grid[0] == {"training.lr": 5e-4, "contract.weighting": "equal"} and len(grid) == 4
    for odd in ("lr=3", "training.lr", "site.name=x"):
        with pytest.raises(InputError, match="expected contract.KEY"):
            candidates([odd])


def test_tuning_chooses_by_labelled_trials_and_goes_on_where_it_was(competition, tmp_path, monkeypatch):
    """The settings that answer the left-out trials right win, whatever was tried before or after."""
    task, begun = Task(str(competition), sources="simulated"), []

    class FakeRun:
        def __init__(self, path):
            self.path = path

    def start(federation, path):
        begun.append(federation)
        path.mkdir(parents=True)
        (path / "beetl.json").write_text(json.dumps(federation.contract.width))
        return FakeRun(path)

    def predictions(run, method):
        good = json.loads((run.path / "beetl.json").read_text()) == 30
        truth = np.array([0, 1, 2, 0, 1, 2])
        yield Predicted("S1", truth if good else np.zeros_like(truth), truth)

    monkeypatch.setattr(beetl_tune, "RunFolder", FakeRun)
    monkeypatch.setattr(beetl_tune, "train", lambda *_: None)
    monkeypatch.setattr(beetl_tune, "predictions", predictions)
    words = (task, candidates(["contract.width=20,30,40"]), {}, {}, tmp_path / "work", start, lambda _: None)
    tried = choose(*words)
    assert tried[0].settings == {"contract.width": 30} and tried[0].score == 100 and tried[0].folds == (100.0,) * 5
    assert len(begun) == 15
    assert sorted({f.site[0].dataset[0].test.runs[0] for f in begun}) == [f"race{k}" for k in range(1, 6)]
    choose(*words)
    assert len(begun) == 15
    write_settings(tmp_path / "tuned.toml", tried, task)
    assert read_toml(tmp_path / "tuned.toml") == {"contract": {"width": 30}}
    assert beetl_federation(task, read_toml(tmp_path / "tuned.toml")).contract.width == 30


def test_a_left_out_race_is_predicted_with_its_labels_known(competition, tmp_path, beetl_store):
    """One real fold, unshared: 20 trials of each subject of A, 24 of B, and none of them trained."""
    task = Task(str(competition), sources="simulated", method="local-site")
    federation = beetl_federation(task, QUICK, held_out=3)
    codes, truth = beetl_tune._held_out(
        task, federation, tmp_path / "fold", lambda f, p: begin(task, f, p, beetl_store, 1, lambda *_: None)
    )
    assert len(codes) == 3 * 20 + 2 * 24
    expected = np.concatenate(
        [np.minimum(planted_trials(A, k, 3)[1][40:60], 2) for k in (1, 2, 3)]
        + [np.minimum(planted_trials(B, k, 3)[1][48:72], 2) for k in (1, 2)]
    )
    assert np.array_equal(truth, expected) and points(codes, truth) > 40
