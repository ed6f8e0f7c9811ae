import numpy as np
import pandas as pd
import pytest
from conftest import federation_of, refused, tiny_toml

from experiments.benchmark.laboratories import laboratory_table, plot_laboratory, worth, worth_lines
from experiments.benchmark.run import Bench, jobs_of, load_bench, new_sites


def test_the_curve_meets_the_federation_where_it_is_linear_in_log_n():
    """Between 10 trials (60) and 40 (80), 70 is reached at 20: half of the way in log n."""
    own = np.array([[60.0, 80.0], [60.0, 80.0]])
    found = worth(np.array([10, 40]), own, np.array([70.0, 70.0]))
    assert found.n == pytest.approx(20.0) and found.low == pytest.approx(20.0) and found.high == pytest.approx(20.0)
    assert str(found) == "20 of your own trials (95 %: 20 to 20)"


@pytest.mark.parametrize(("score", "said"), [(90.0, "> 40"), (50.0, "< 10")])
def test_beyond_the_curve_its_end_is_said(score, said):
    found = worth(np.array([10, 40]), np.array([[60.0, 80.0]] * 3), np.full(3, score))
    assert str(found) == f"{said} of your own trials (95 %: {said} to {said})"


def test_a_curve_that_falls_is_met_where_it_first_reaches_the_score():
    found = worth(np.array([10, 20, 40]), np.array([[60.0, 70.0, 65.0]] * 2), np.full(2, 68.0))
    assert 10 < found.n < 20


@pytest.fixture
def bench(tmp_path):
    federation_of(tiny_toml(), tmp_path)
    (tmp_path / "bench.toml").write_text(
        'federation = "federation-under-test.toml"\nseeds = 1\nmethods = ["own-adaptive"]\n'
    )
    return tmp_path / "bench.toml"


def rows_of(**scores):
    """A row each of two subjects; a score by method and amount."""
    return pd.DataFrame(
        [
            (name.replace("_", "-"), "graz", "d", subject, 0, asked, asked, 0, value + 0.02 * k, 1.0, 1)
            for name, of_amount in scores.items()
            for asked, value in of_amount.items()
            for k, subject in enumerate(("001", "002"))
        ],
        columns=["method", "site", "dataset", "subject", "seed", "asked", "n_calibration", "fold",
                 "balanced_accuracy", "seconds", "bytes"],
    )  # fmt: skip


def test_a_laboratory_is_shown_with_its_gains_and_what_they_are_worth(tmp_path):
    rows = rows_of(
        own_adaptive={10: 0.6, 40: 0.8}, mf_scsn_unseen_no_label={10: 0.7}, mf_scsn_unseen_no_label_null={10: 0.5}
    )
    table = laboratory_table(rows, "graz", ["graz"])
    cells = {str(c.header): list(map(str, c.cells)) for c in table.columns}
    assert cells["method"] == ["own-adaptive", "mf-scsn-unseen-no-label", "mf-scsn-unseen-no-label-null"]
    assert cells["40"] == ["81.0", "", ""] and cells["10 (95 %)"][1].startswith("71.0 (")
    assert cells["minus own-adaptive at 10"] == ["", "+10.0 (+10.0 to +10.0)", ""]
    assert cells["minus its null"] == ["", "+20.0 (+20.0 to +20.0)", ""]
    assert worth_lines(rows, {"graz": ["graz"]}) == [
        "graz: without a label, mf-scsn-unseen-no-label is worth 20 of your own trials (95 %: 20 to 20)"
    ]
    assert [file.exists() for file in plot_laboratory(rows, ["graz"], tmp_path, "labs-graz")] == [True, True]


def test_a_table_without_own_trials_and_one_whose_subjects_have_fewer():
    rows = rows_of(mf_scsn_unseen_no_label={20: 0.7}, mf_scsn_unseen_no_label_null={20: 0.5})
    table = laboratory_table(rows, "graz", ["graz"])
    assert [str(c.header) for c in table.columns][1] == "20 (95 %)" and worth_lines(rows, {"graz": ["graz"]}) == []
    rows = rows_of(own_adaptive={5: 0.5, 15: 0.6, 20: 0.7}, mf_scsn_unseen_no_label={20: 0.65})
    rows = pd.concat([rows, rows.assign(subject=rows["subject"] + "9")])
    rows.loc[(rows["subject"] == "001") & (rows["asked"] == 20), "n_calibration"] = 15  # one has no more
    said = worth_lines(rows, {"graz": ["graz"]})
    assert len(said) == 1 and "is worth 17 of your own trials" in said[0]


def test_a_laboratorys_sites_are_new_together(tmp_path, bench):
    text = bench.read_text()
    bench.write_text(text + 'new_site = true\n[laboratories]\none = ["south", "north"]\n')
    plan, federation, made_with = load_bench(bench)
    assert new_sites(plan, federation) == (("south", "north"),) and made_with["laboratories"] == plan.laboratories
    bench.write_text(text + 'new_site = true\n[laboratories]\none = ["south"]\n')
    assert "laboratories: expected each site of" in refused("benchmark", bench, cwd=tmp_path)
    bench.write_text(text + '[laboratories]\none = ["south", "north"]\n')
    assert "it needs new_site = true" in refused("benchmark", bench, cwd=tmp_path)


def test_a_method_has_its_own_amounts_of_calibration():
    plan = Bench(
        federation="", methods=["own-adaptive", "mf-scsn-unseen-no-label"], new_site=True, seeds=1, calibration=[5, 20],
        only={"mf-scsn-unseen": {"calibration": [20]}},
    )  # fmt: skip
    assert [(job.method, job.calibration) for job in jobs_of(plan, (("a",),))] == [
        ("own-adaptive", 5), ("own-adaptive", 20), ("mf-scsn-unseen", 20),
    ]  # fmt: skip
