"""From the competition's files to an answer: the federation, the merging of labels, the order, the score."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import planted_trials, refused

from data.beetl import A, B, write_sums
from data.beetl_answer import read_codes
from data.errors import InputError
from experiments.beetl import tune as beetl_tune
from experiments.beetl.run import (
    TargetAnswers,
    Task,
    answer,
    beetl_federation,
    begin_or_reopen,
    begin_run,
    reopen_run,
    submitted,
    train_run,
)
from experiments.beetl.score import points
from experiments.beetl.tune import Tuning, candidates, choose, write_settings
from experiments.prepare import prepare_sites
from federation.site_trials import SiteTrials
from federation.tables import read_toml

pytestmark = pytest.mark.usefixtures("small_targets")
QUICK = {"training": {"rounds": 2, "lr": 1e-3, "local_epochs": 3}}
ONCE = {"training": {"rounds": 1, "lr": 1e-3}}


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


def ended(competition, folder, store, method="mf-scsn", settings=QUICK, **about):
    task = Task(str(competition), sources="simulated", method=method, **about)
    run = begin_run(task, small(beetl_federation(task, settings)), folder / method, store, 1, "cpu", lambda *_: None)
    train_run(run, method, lambda _: None)
    return run, task


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
        ({"site": []}, r"mine.toml: 'site': expected the tables \[contract\] and \[training\]"),
        ({"training": 3}, r"mine.toml: 'training': expected the tables"),
        ({"contract": {"shrinkage": 2.0}}, "contract, shrinkage: expected less than or equal to 1"),
    ],
)
def test_odd_settings_are_named(competition, settings, message):
    with pytest.raises(InputError, match=message):
        beetl_federation(Task(str(competition)), settings, where="mine.toml")


def test_merged_classes_count_the_mean_of_their_members():
    """Outputs rest, left, right, feet of A: "other" is right and feet together, each half."""
    probabilities = np.array([[0.3, 0.2, 0.45, 0.05], [0.2, 0.2, 0.35, 0.25], [0.1, 0.15, 0.0, 0.75]])
    codes = np.array([A.answer_codes[task] for task in A.tasks])
    assert submitted(probabilities, codes).tolist() == [0, 2, 2]


def test_a_run_answers_in_the_organisers_order_and_is_scored(competition, tmp_path, beetl_store):
    """Through real Flower. The planted trials are easy, so an answer in another order would be near chance."""
    run, task = ended(competition, tmp_path, beetl_store, transductive=True)
    first, second = answer(run, task)
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
    again, task = reopen_run(run.path, lambda *_: None)
    assert task.transductive and [a.path.name for a in answer(again, task)] == ["answer.txt", "answer-transductive.txt"]


def test_labels_of_test_trials_change_no_answer(linked, competition, tmp_path, beetl_store):
    """The same files with other labels, and with none, are answered alike; without labels there is no score."""
    true = answer(*ended(competition, tmp_path / "true", beetl_store, "baseline", ONCE))[0]
    assert true.score is not None and true.score.total > 38
    codes = read_codes(linked / "final_MI_label.txt")[::-1]
    (linked / "final_MI_label.txt").unlink()
    (linked / "final_MI_label.txt").write_text("".join(f"{code}\n" for code in codes))
    (linked / "SHA256SUMS").unlink()
    write_sums(linked)
    other = answer(*ended(linked, tmp_path / "other", beetl_store, "baseline", ONCE))[0]
    assert other.score is not None and other.score.total < true.score.total
    (linked / "final_MI_label.txt").unlink()
    (linked / "SHA256SUMS").unlink()
    run, task = ended(linked, tmp_path / "none", beetl_store, "baseline", ONCE)
    (none,) = answer(run, task)
    assert none.score is None and not (run.path / "score.json").exists()
    for found in (other, none):
        assert np.array_equal(read_codes(found.path), read_codes(true.path))


def test_the_baseline_is_shown_as_many_trials_as_the_sites_network(competition, tmp_path, beetl_store):
    run, task = ended(competition, tmp_path, beetl_store, "baseline", ONCE)
    (found,) = answer(run, task)
    assert found.score is not None and found.score.total > 38
    local = beetl_federation(Task(str(competition), method="local-site"))
    prepared = prepare_sites(local, beetl_store)
    for site, ours in zip(run.federation.site, prepared.site, strict=True):
        shown = run.trials(site).n_training()
        assert shown == SiteTrials(ours, local.contract, beetl_store).n_training() == {"A": 500, "B": 600}[site.name]


def test_a_run_goes_on_with_its_own_files_alone(linked, tmp_path, beetl_store):
    """Subjects that are swapped after the training are refused, with the sums and without."""
    run, task = ended(linked, tmp_path, beetl_store, "baseline", ONCE)
    (before,) = answer(run, task)
    kept = before.path.read_bytes()
    (linked / "finalMI/S1").rename(linked / "finalMI/away")
    (linked / "finalMI/S2").rename(linked / "finalMI/S1")
    (linked / "finalMI/away").rename(linked / "finalMI/S2")
    with pytest.raises(InputError, match="are files swapped"):
        reopen_run(run.path, lambda *_: None)
    (linked / "SHA256SUMS").unlink()
    (linked / "final_MI_label.txt").unlink()
    again, task = reopen_run(run.path, lambda *_: None)
    with pytest.raises(InputError, match="trained on other trials than are prepared now"):
        answer(again, task)
    with pytest.raises(InputError, match="--transductive: the alignment 'standard' of baseline fits nothing"):
        reopen_run(run.path, lambda *_: None, transductive=True)
    assert before.path.read_bytes() == kept
    (run.path / "beetl.json").unlink()
    with pytest.raises(InputError, match="no run of `mfscsn beetl run`"):
        reopen_run(run.path, lambda *_: None)


def test_a_second_answer_that_would_be_the_first_is_refused(competition):
    for changes in ({"method": "baseline"}, {"settings": {"contract": {"extractor": "shallow", "alignment": "none"}}}):
        settings = changes.pop("settings", None)
        with pytest.raises(InputError, match="--transductive: the alignment .* fits nothing"):
            beetl_federation(Task(str(competition), transductive=True, **changes), settings)


@pytest.mark.parametrize("sums", [True, False], ids=["with sums", "without"])
def test_a_wrong_label_file_is_refused_before_anything_is_trained(linked, tmp_path, beetl_store, sums):
    (linked / "final_MI_label.txt").unlink()
    (linked / "final_MI_label.txt").write_text("0\n1\n2\n2\n" * 250)
    if not sums:
        (linked / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="neither the organisers' labels nor those"):
        ended(linked, tmp_path, beetl_store, "baseline")
    assert not (tmp_path / "baseline").exists()


def test_unlabelled_targets_cannot_be_simulated(competition, tmp_path, beetl_store):
    federation = beetl_federation(Task(str(competition), method="local-site"), QUICK)
    (tmp_path / "beetl.toml").write_text(federation.to_toml())
    words = ("simulate", "beetl.toml", "--out", "run", "--store", beetl_store)
    assert "its test trials have no labels" in refused(*words, cwd=tmp_path)
    assert not (tmp_path / "run").exists()


def test_candidates_are_crossed():
    grid = candidates(["training.lr=5e-4,1e-3", "contract.weighting=equal,trials"])
    assert grid[0] == {"training.lr": 5e-4, "contract.weighting": "equal"} and len(grid) == 4
    with pytest.raises(InputError, match="is tried already"):
        candidates(["training.lr=1e-3", "training.lr=2e-3"])
    assert len(candidates(["training.lr=0.1,0.1,0.10"])) == 1
    bands = candidates(["contract.band=[4.0,38.0],[8.0,30.0]"])
    assert [chosen["contract.band"] for chosen in bands] == [[4.0, 38.0], [8.0, 30.0]]
    for odd, message in (
        ("lr=3", "expected contract.KEY"),
        ("training.lr", "expected contract.KEY"),
        ("site.name=x", "expected contract.KEY"),
        ("training.seed=1,2", "a seed is nothing to choose"),
        ("training.lr= ", "no value"),
    ):
        with pytest.raises(InputError, match=message):
            candidates([odd])


def test_tuning_chooses_by_labelled_trials_and_goes_on_where_it_was(competition, tmp_path, monkeypatch):
    """The settings that answer the left-out trials right win, whatever was tried before or after."""
    task, begun = Task(str(competition), sources="simulated"), []

    class FakeRun:
        def __init__(self, path):
            self.path = path

    def start(federation, path):
        if path.exists():
            return FakeRun(path)
        begun.append(federation)
        path.mkdir(parents=True)
        (path / "beetl.json").write_text(json.dumps(federation.contract.width))
        return FakeRun(path)

    def predictions(run, method):
        good = json.loads((run.path / "beetl.json").read_text()) == 30
        truth = np.array([0, 1, 2, 0, 1, 2])
        yield TargetAnswers("S1", truth if good else np.zeros_like(truth), truth)

    monkeypatch.setattr(beetl_tune, "train_run", lambda *_: None)
    monkeypatch.setattr(beetl_tune, "predictions", predictions)
    tuning = Tuning(task, {}, {}, tmp_path / "work", start)
    words = (tuning, candidates(["contract.width=20,30,40"]), lambda _: None)
    tried = choose(*words)
    assert tried[0].settings == {"contract.width": 30} and tried[0].score == 100 and tried[0].folds == (100.0,) * 5
    assert len(begun) == 15
    assert sorted({f.site[0].dataset[0].test.runs[0] for f in begun}) == [f"race{k}" for k in range(1, 6)]
    choose(*words)
    assert len(begun) == 15
    write_settings(tmp_path / "tuned.toml", tried, task)
    assert read_toml(tmp_path / "tuned.toml") == {"contract": {"width": 30}}
    assert beetl_federation(task, read_toml(tmp_path / "tuned.toml")).contract.width == 30
    write_settings(tmp_path / "few.toml", tried, task, rounds=5)
    assert read_toml(tmp_path / "few.toml") == {"training": {"rounds": 5}, "contract": {"width": 30}}


def test_a_left_out_race_is_predicted_with_its_labels_known(competition, tmp_path, beetl_store):
    """One real fold, unshared: 20 trials of each subject of A, 24 of B, and none of them trained."""
    task = Task(str(competition), sources="simulated", method="local-site")
    federation = beetl_federation(task, QUICK, held_out=3)
    path, words = tmp_path / "fold", (beetl_store, 1, "cpu", lambda *_: None)
    path.mkdir()
    (path / "federation.toml").write_text("half made")  # a process that was killed before it had begun
    codes, truth = beetl_tune._held_out(task, federation, path, lambda f, p: begin_or_reopen(task, f, p, *words))
    again, _ = beetl_tune._held_out(task, federation, path, lambda f, p: begin_or_reopen(task, f, p, *words))
    assert np.array_equal(again, codes)
    assert len(codes) == 3 * 20 + 2 * 24
    expected = np.concatenate(
        [np.minimum(planted_trials(A, k, 3)[1][40:60], 2) for k in (1, 2, 3)]
        + [np.minimum(planted_trials(B, k, 3)[1][48:72], 2) for k in (1, 2)]
    )
    assert np.array_equal(truth, expected) and points(codes, truth) > 40


def test_a_graphics_card_that_is_not_there_is_said_before_anything_is_prepared(competition, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ("beetl", "run", "--data", competition, "--sources", "simulated", "--device", "cuda", "--out", "run")
    assert "torch sees no graphics card here" in refused(*words, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
