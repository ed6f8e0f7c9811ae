"""A paper's table: by hand, over seeds, over settings."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from conftest import mfscsn, refused

from data.errors import InputError
from experiments.compare_runs import as_csv, as_frame, as_json, as_latex, compare_runs, decision, rows_of, verdict
from experiments.evaluate import area_under_curve


def rows(gains, seeds=(0, 1)):
    return pd.DataFrame(
        {"site": "a", "dataset": "d", "subject": str(k), "method": method, "seed": seed, "balanced_accuracy": value,
         "accuracy": value, "kappa": 2 * value - 1, "auc": value}
        for k, gain in enumerate(gains) for seed in seeds
        for method, value in (("local-site", 0.6), ("mf-scsn", 0.6 + gain + 0.01 * seed))
    )  # fmt: skip


def test_differences_effect_and_p_by_hand():
    gains = np.array([0.05, 0.10, 0.02, 0.08, 0.04, 0.06, 0.03])
    rival, ours = compare_runs(rows(gains))
    expected = 100 * (gains + 0.005)  # a mean of two seeds
    assert rival.gain is None and rival.p is None and ours.n_subjects == 7 and ours.n_seeds == 2
    assert ours.gain.mean == pytest.approx(expected.mean())
    assert ours.effect == pytest.approx(expected.mean() / expected.std(ddof=1))
    assert ours.p == pytest.approx(2 / 2**7)  # all seven of one sign, exact
    more = rows(gains)
    more = pd.concat([more, more[more["method"] == "mf-scsn"].assign(method="other")])
    assert [c.p for c in compare_runs(more)][1:] == [pytest.approx(2 * 2 / 2**7)] * 2  # two comparisons: Bonferroni
    assert ours.kappa == pytest.approx(2 * ours.accuracy - 1)
    assert "clear of zero: 7 subjects, 2 seeds" in verdict([rival, ours])
    assert "not clear of zero" in verdict(compare_runs(rows([0.1, -0.1, 0.0, 0.05, -0.06, -0.01], seeds=(0,))))
    few = compare_runs(rows([0.1, 0.2]))
    assert few[1].p is None and as_frame(few)["p"].tolist() == ["", ""] and few[1].effect is None
    assert "2 subjects are too few to tell more" in verdict(few)
    assert verdict(compare_runs(rows([-0.1] * 7))).startswith("mf-scsn is 9.5 points below local-site (-")


def test_runs_of_other_seeds_are_compared_by_their_means():
    ours = rows([0.1] * 7, seeds=(0, 1)).assign(method=lambda r: "x: " + r["method"])
    theirs = rows([0.2] * 7, seeds=(2, 3)).assign(method=lambda r: "y: " + r["method"])
    *_, last = compare_runs(pd.concat([ours, theirs]), "x: mf-scsn")
    assert last.gain.mean == pytest.approx(12.0) and last.gain.low == pytest.approx(12.0)


def test_area_under_the_curve_by_hand():
    p = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.7, 0.3, 0], [0.2, 0.8, 0]])
    assert area_under_curve(p, np.array([0, 0, 1, 1])) == pytest.approx(3 / 4)
    assert area_under_curve(p, np.array([0, 0, 0, 0])) is None
    assert area_under_curve(np.array([[0, 0, 1.0]] * 4), np.array([0, 0, 1, 1])) == 0.5  # labels nobody foresaw
    perfect = np.eye(3)[[0, 1, 2, 0]] * 0.8 + 0.1
    assert area_under_curve(perfect, np.array([0, 1, 2, 0])) == 1.0


def test_seeds_in_one_folder_are_run_resumed_scored_and_compared(tmp_path, tiny_file, prepared):
    words = ("--rounds", "1", "--store", prepared)
    code, out, err = mfscsn("simulate", tiny_file, "--seeds", "2", "--seed", "3", "--out", "many", *words, cwd=tmp_path)
    assert code == 0, out + err
    assert [path.name for path in sorted((tmp_path / "many").glob("seed-*"))] == ["seed-3", "seed-4"]
    assert "mf-scsn is " in out and "3 subjects are too few to tell more" in out
    before = (tmp_path / "many" / "seed-4" / "scores.csv").read_bytes()
    import shutil

    shutil.rmtree(tmp_path / "many" / "seed-4")  # as if it had been broken off before
    code, out, err = mfscsn("simulate", "--resume", "many", cwd=tmp_path)
    assert code == 0, out + err
    assert (tmp_path / "many" / "seed-4" / "scores.csv").read_bytes() == before

    told = refused("export", "many", "--to", "x", cwd=tmp_path)
    assert "many: holds the seeds seed-3, seed-4 of a run; say which" in told
    code, out, _ = mfscsn("report", "many", cwd=tmp_path)
    assert code == 0 and out == "report: many/report.html\n"
    assert all((tmp_path / "many" / seed / "report.html").exists() for seed in ("seed-3", "seed-4"))
    code, out, err = mfscsn("evaluate", "many", cwd=tmp_path)
    assert code == 0 and "seeds 3, 4" in out
    code, out, err = mfscsn("simulate", tiny_file, "--out", "one", *words, cwd=tmp_path)
    assert code == 0, err
    code, out, err = mfscsn("compare", "many", "one", "--csv", "table.csv", cwd=tmp_path)
    assert code == 0 and "many: mf-scsn" in out and "one: mf-scsn" in out, err
    table = pd.read_csv(tmp_path / "table.csv")
    methods = ("own-calibration", "local-site", "mf-scsn")
    assert list(table["method"]) == [f"{run}: {method}" for run in ("many", "one") for method in methods]
    code, out, _ = mfscsn("compare", "many", "--json", cwd=tmp_path)
    told = json.loads(out)
    assert told[2]["method"] == "mf-scsn" and told[2]["n_seeds"] == 2 and told[1]["gain"] is None
    code, out, _ = mfscsn("compare", "many", "--latex", "--against", "own-calibration", cwd=tmp_path)
    assert code == 0 and "\n\\begin{tabular}" in out

    assert "there are own-calibration, local-site, mf-scsn" in refused(
        "compare", "many", "--against", "x", cwd=tmp_path
    )
    assert "no run here" in refused("compare", "nowhere", cwd=tmp_path)
    assert "give one of them" in refused("compare", "many", "--json", "--latex", cwd=tmp_path)
    assert "do not differ" in refused("compare", "many", "many", cwd=tmp_path)


def test_settings_without_a_common_subject_are_refused():
    ours = rows([0.1]).assign(method=lambda r: "x: " + r["method"])
    theirs = rows([0.1]).assign(method=lambda r: "y: " + r["method"], subject="other")
    with pytest.raises(InputError, match="have no target subject in common"):
        compare_runs(pd.concat([ours, theirs]))


def test_predictions_say_where_and_how_sure(tmp_path, tiny_file, prepared):
    code, _, err = mfscsn("simulate", tiny_file, "--rounds", "1", "--out", "run", "--store", prepared, cwd=tmp_path)
    assert code == 0, err
    told = pd.read_csv(tmp_path / "run" / "predictions.csv", dtype={"subject": str})
    (p,) = [told[[c for c in told if c.startswith("p_")]]]
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)
    named = [row[f"p_{row['predicted']}"] for _, row in told.iterrows()]
    assert np.allclose(named, p.max(axis=1), atol=1e-5)
    assert told["onset"].notna().all() and told.groupby(["subject", "method", "session", "run"])["onset"].apply(
        lambda onset: onset.is_monotonic_increasing
    ).all()  # fmt: skip
    scores = rows_of([tmp_path / "run"])
    assert (scores["accuracy"] <= 1).all() and scores["auc"].between(0, 1).all()


def named(name, gains=(0.1, 0.2)):
    return compare_runs(rows(list(gains)).replace({"method": {"mf-scsn": name}}))


def test_two_subjects_look_like_no_finding_in_any_form():
    few = named("mf-scsn")
    assert as_frame(few)["difference (95 %)"][1] == "+15.5 (2 subjects: too few)"
    assert [row["too_few"] for row in json.loads(as_json(few))] == [True, True]
    assert as_latex(few).startswith("% mf-scsn is 15.5 points over") and "too few" in as_csv(few)
    assert not any(row["too_few"] for row in json.loads(as_json(named("mf-scsn", [0.1] * 7))))


def test_a_name_is_no_formula_in_a_spreadsheet():
    assert "\n'=HYPERLINK(" in as_csv(named('=HYPERLINK("x")')).replace("\"'", "'").replace('""', '"')


def test_the_latex_table_compiles(tmp_path):
    engine = shutil.which("pdflatex")
    if engine is None:
        pytest.skip("needs pdflatex (Debian: texlive-latex-base, texlive-latex-recommended)")
    table = as_latex(named(r"50%_of #1 & a\b {x} ~^$"))
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + table + "\\end{document}\n"
    )
    done = subprocess.run(
        [engine, "-halt-on-error", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and (tmp_path / "t.pdf").exists(), done.stdout[-2000:]


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ([0.1] * 7, "Join"),
        ([-0.1] * 7, "Do not join"),
        ([0.1, -0.1] * 4, "not to be told"),
        ([0.1] * 3, "not to be told"),
    ],
)
def test_whether_to_join(gains, said):
    assert said in decision(compare_runs(rows(gains, seeds=(0,))))
