"""The null of a run: others that teach nothing."""

import numpy as np
import pandas as pd
import pytest
from conftest import LoopGrid, mfscsn, refused

from experiments import control
from experiments.benchmark.federated import METHODS, run_method
from experiments.evaluate import evaluate
from experiments.references import reference_jobs, train_references
from federation.server_app import federate
from federation.site_scores import balanced_accuracy


@pytest.fixture
def finished(make_run):
    run = make_run(extractor="common-space")
    federate(LoopGrid(run), run)
    train_references(run, reference_jobs(run), lambda done, total: None)
    evaluate(run)
    return run


def test_it_is_the_null_of_the_benchmark_and_stands_in_the_report(finished, tmp_path):
    code, out, err = mfscsn("control", finished.path, cwd=tmp_path)
    assert code == 0, err
    null = pd.read_csv(finished.path / "null.csv", dtype={"subject": str})
    expected = {
        (row.site, row.subject): balanced_accuracy(row.probabilities, row.labels, row.outputs)
        for row in run_method(finished.federation, METHODS["mf-scsn-null"], 0, finished.store)
    }
    found = {(row.site, row.subject): row.balanced_accuracy for row in null.itertuples()}
    assert found == pytest.approx(expected) and len(found) == 3
    scores = pd.read_csv(finished.path / "scores.csv", dtype={"subject": str})
    ours = scores[scores["method"] == "mf-scsn"].set_index(["site", "subject"])["balanced_accuracy"]
    of_sites = pd.DataFrame({"gain": ours - pd.Series(found)}).groupby(level=0)["gain"].mean()
    assert f"{100 * float(np.mean(of_sites)) + 0.0:+.1f} (" in out
    page = (finished.path / "report.html").read_text()
    assert "minus its null" in page and "mfscsn control RUN" not in page
    (finished.path / "null.csv").write_text("cut")
    assert "null.csv: damaged; `mfscsn control" in refused("report", finished.path, cwd=tmp_path)


def test_where_nothing_is_shared_there_is_no_null(make_run, tmp_path):
    run = make_run(contract='share = "none"')
    assert "nothing is shared here" in refused("control", run.path, cwd=tmp_path)


def test_a_run_without_scores_is_refused(make_run, tmp_path):
    assert "no scores.csv" in refused("control", make_run().path, cwd=tmp_path)
    assert control.gain_over_null(make_run("other")) is None


@pytest.mark.parametrize("strategy", ["fedadam", "fedmedian"])
def test_a_strategy_that_does_more_than_average_has_no_control(make_run, tmp_path, strategy):
    run = make_run(contract=f'strategy = "{strategy}"')
    assert f"strategy {strategy!r} does more than average" in refused("control", run.path, cwd=tmp_path)


def test_the_control_of_fedprox_is_pulled_back_too(monkeypatch, make_run):
    run = make_run(contract='strategy = "fedprox"\nproximal_mu = 0.7')
    seen = []
    monkeypatch.setattr(control, "run_null", lambda federation, method, store, site: seen.append(method) or [])
    assert control._of_site(run.path, "south") == []
    assert seen[0].proximal_mu == 0.7 and seen[0].null
