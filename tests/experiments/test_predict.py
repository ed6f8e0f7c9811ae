"""A headset that was never in the federation decodes from one exported file, without a label."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from conftest import LoopGrid, mfscsn, refused, write_bids, write_edf

from data.trials import Trials
from experiments.predict import UnseenModel
from federation.common_layers import export_common, read_common
from federation.server_app import federate
from mfscsn.network import Anchored


@pytest.fixture
def run(make_run):
    run = make_run(extractor="common-space")
    federate(LoopGrid(run), run)
    return run


def recorded(channels, seed=0, n=20):
    signals = np.random.default_rng(seed).normal(scale=10, size=(n, len(channels), 256)).astype(np.float32)
    words = (np.array([word] * n) for word in ("cue", "7", "1", "1"))
    return Trials(signals, *words, tuple(channels), 128.0)


def test_an_unseen_headset_is_told_from_one_file(run, tmp_path):
    export_common(run, tmp_path / "card")
    write_bids(tmp_path / "today", ["7"], ["1"], ["F3", "C3", "Cz", "C4", "P4"], names=("cue",), n=6)
    words = ("--data", "bids:today", "--cues", "cue", "--tasks", "right_hand,rest")
    code, out, err = mfscsn("predict", tmp_path / "card", *words, cwd=tmp_path)
    assert code == 0, out + err
    assert "subject 7: 6 trials, aligned by these trials themselves" in out
    with (tmp_path / "probabilities.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[4:] == ["onset", "cue", "p_right_hand", "p_rest", "predicted"] and len(rows) == 6
    assert mfscsn("predict", run.path, *words, "--out", "same.csv", cwd=tmp_path)[0] == 0
    assert (tmp_path / "same.csv").read_bytes() == (tmp_path / "probabilities.csv").read_bytes()


def test_files_of_one_person_are_told_by_their_pattern_and_a_folders_kind_is_seen(run, tmp_path):
    for name in ("P7R1", "P7R2"):
        write_edf(tmp_path / "today" / f"{name}.edf", channels=("C3", "Cz", "C4"))
    words = ("--data", "today", "--cues", "left,right", "--tasks", "right_hand,rest")
    assert "--pattern 'P{subject}R{run}'" in refused("predict", run.path, *words, cwd=tmp_path)
    code, out, err = mfscsn("predict", run.path, *words, "--pattern", "P{subject}R{run}", cwd=tmp_path)
    assert code == 0 and "subject 7: 16 trials" in out, err
    assert "no such folder or file" in refused(
        "predict", run.path, "--data", "nowhere", *words[2:], "--out", "other.csv", cwd=tmp_path
    )


def test_a_headset_far_from_the_motor_strip_is_warned_of(run, tmp_path):
    write_bids(tmp_path / "today", ["7"], ["1"], ["O1", "Oz", "O2"], names=("cue",), n=6)
    words = ("--data", "bids:today", "--cues", "cue", "--tasks", "right_hand,rest")
    code, out, err = mfscsn("predict", run.path, *words, cwd=tmp_path)
    assert code == 0, out + err
    assert "subject 7: no electrode near C3 and C4" in out and "will see little" in out


def test_norms_are_fitted_on_the_new_signals(run, monkeypatch):
    fitted, fit = [], Anchored.fit_norms
    monkeypatch.setattr(Anchored, "fit_norms", lambda self, x, branch: fitted.append(len(x)) or fit(self, x, branch))
    told = UnseenModel(read_common(run.path), ["right_hand", "rest"]).told("7", recorded(("C3", "Cz", "C4"), n=9))
    assert fitted == [9] and told.probabilities.shape == (9, 2)


def test_order_of_channels_and_of_tasks_change_nothing(run):
    common, channels = read_common(run.path), ("F3", "C3", "Cz", "C4", "P4")
    trials, order = recorded(channels), [3, 1, 4, 0, 2]
    turned = replace(trials, signals=trials.signals[:, order], channels=tuple(channels[k] for k in order))
    told = UnseenModel(common, ["right_hand", "rest"]).told("7", trials).probabilities
    other = UnseenModel(common, ["rest", "right_hand"]).told("7", turned).probabilities
    np.testing.assert_allclose(told, other[:, ::-1], atol=2e-3)
    assert np.ptp(told[:, 0]) > 1e-3


def test_what_cannot_be_told_is_said(run, make_run, tmp_path):
    export_common(run, tmp_path / "card")
    words = ("--data", "bids:today", "--cues", "cue")
    assert "say which labels to tell apart with --tasks" in refused("predict", tmp_path / "card", *words, cwd=tmp_path)
    err = refused("predict", tmp_path / "card", *words, "--tasks", "rest", cwd=tmp_path)
    assert "tasks rest: name at least two" in err
    err = refused("predict", run.path, *words, "--tasks", "rest,feet", "--own", cwd=tmp_path)
    assert "leave --site and --own out" in err
    shallow = make_run("other")
    federate(LoopGrid(shallow), shallow)
    err = refused("predict", shallow.path, *words, "--tasks", "rest,feet", cwd=tmp_path)
    assert "its headsets have first layers of their own" in err
    write_bids(tmp_path / "today", ["7"], ["1"], ["C3", "Cz", "C4", "X7"], names=("cue",), n=6)
    err = refused("predict", tmp_path / "card", *words, "--tasks", "rest,feet", cwd=tmp_path)
    assert "subject '7': no position on the scalp is known of 'X7'" in err
