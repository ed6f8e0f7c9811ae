"""A headset that was never part of the federation: the benchmark's rows are what `mfscsn adopt` and `predict` give."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import LoopGrid, federation_of, refused, tiny_toml

from experiments.adopt import adopt, adopting
from experiments.benchmark.run import Job, of_fold, run_job
from experiments.benchmark.unseen import UNSEEN, run_unseen
from federation import plain_loop
from federation.common_layers import read_common
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.site_trials import SiteTrials

NAME = "mf-scsn-unseen"
NO_LABEL = UNSEEN[NAME].no_label
SOUTH = Job(NAME, 0, None, new_sites=(("north",), ("south",)), fold=1)


@pytest.fixture
def in_space(tmp_path):
    text = tiny_toml().replace('"shallow"', '"common-space"').replace("calibration = { first = 12 }", CALIBRATION)
    return federation_of(text, tmp_path)


CALIBRATION = "calibration = { first = 12 }\ntest = { after = 12 }"


def test_the_unseen_site_adopts_what_the_others_trained(tmp_path, prepared, in_space):
    rows = run_job(SOUTH, in_space, prepared)
    assert [(row["method"], row["site"]) for row in rows] == [(NO_LABEL, "south"), (NAME, "south")] * 2
    left_out = of_fold(in_space, SOUTH)
    others = RunFolder.create(
        tmp_path / "others", left_out.model_copy(update={"site": [left_out.site[0]]}), prepared, 1
    )
    federate(LoopGrid(others), others)
    common = read_common(others.path)
    new = RunFolder.create(tmp_path / "new", adopting(common, left_out.site[1]), prepared, 1)
    scores = {s.subject: s.balanced_accuracy for s in adopt(new, common, lambda step: None) if s.method == "mf-scsn"}
    for row in rows:
        if row["method"] == NAME:
            assert row["balanced_accuracy"] == pytest.approx(scores[row["subject"]], abs=1e-6)


def test_the_unseen_site_takes_no_part_in_training(prepared, in_space, monkeypatch):
    trained, together = [], plain_loop.train_together
    monkeypatch.setattr(
        plain_loop, "train_together", lambda f, store, **how: trained.append(f) or together(f, store, **how)
    )
    run_unseen(NAME, of_fold(in_space, SOUTH), 0, prepared)
    (federation,) = trained
    assert [(site.name, site.dataset[0].targets) for site in federation.site] == [("north", [])]


def test_without_a_label_no_label_is_looked_at(prepared, in_space, monkeypatch):
    left_out, calibration = of_fold(in_space, SOUTH), SiteTrials.calibration
    seen = dict(run_unseen(NAME, left_out, 0, prepared))
    monkeypatch.setattr(
        SiteTrials,
        "calibration",
        lambda *words: {who: replace(t, labels=0 * t.labels) for who, t in calibration(*words).items()},
    )
    again = dict(run_unseen(NAME, left_out, 0, prepared))
    np.testing.assert_array_equal(again[NO_LABEL].probabilities, seen[NO_LABEL].probabilities)
    assert not np.array_equal(seen[NAME].probabilities, seen[NO_LABEL].probabilities)


def test_an_unseen_site_needs_one_that_is_new(tmp_path, in_space):
    bench = tmp_path / "bench.toml"
    bench.write_text(f'federation = "federation-under-test.toml"\nmethods = ["{NAME}"]\n')
    assert "which site is unseen? It needs new_site = true" in refused("benchmark", bench, cwd=tmp_path)
    bench.write_text(bench.read_text() + "new_site = true\nfolds = 2\n")
    assert "new_site = true has a fold for each site; leave folds out" in refused("benchmark", bench, cwd=tmp_path)
