"""A benchmark's statistics against cases that are known by hand, and the lines and tables that show them."""

import numpy as np
import pandas as pd
import pytest

from experiments.benchmark.compare import estimate, excess_losers, losing_sites, paired, strongest_alone
from experiments.benchmark.run import COLUMNS
from experiments.benchmark.show import benchmark_table, gain_table, print_benchmark


def scores(**of_methods):
    """Two sites of three and six subjects."""
    return pd.DataFrame(
        [
            (method, site, "d", f"{site}{k}", seed, 10, 30, value(site, k, seed), 1.0, 0, 0, "")
            for method, value in of_methods.items()
            for site, n in (("a", 3), ("b", 6))
            for k in range(n)
            for seed in range(2)
        ],
        columns=[*COLUMNS, "asked", "answers"],
    )


def test_a_mean_is_over_subjects_then_over_sites():
    rows = scores(x=lambda site, k, seed: 0.8 if site == "a" else 0.5 + 0.1 * seed)
    found = estimate(rows, "x")
    assert found.mean == pytest.approx(100 * (0.8 + 0.55) / 2)
    assert found.low == pytest.approx(65) and found.high == pytest.approx(70)


def test_a_paired_gain_is_the_mean_of_differences():
    rows = scores(x=lambda site, k, seed: 0.6 + 0.01 * k, y=lambda site, k, seed: 0.5 + 0.01 * k)
    found = paired(rows, "x", "y")
    assert found.gain.low == pytest.approx(10) and found.gain.high == pytest.approx(10)
    assert found.n_better == found.n_subjects == 9 and found.p == pytest.approx(2 / 2**9)
    assert str(found) == "+10.0 (+10.0 to +10.0), 9 of 9, p 0.0039"


def test_a_paired_gain_compares_equal_seeds():
    """One method ran with the seeds 0 and 1, the other with 1 and 0 and 2: a table's order is no pairing."""
    ours = scores(x=lambda site, k, seed: 0.6 + 0.1 * seed)
    theirs = scores(y=lambda site, k, seed: 0.5 + 0.1 * seed)
    theirs = pd.concat([theirs, theirs[theirs["seed"] == 1].assign(seed=2, balanced_accuracy=0.0)])
    without_0 = ours[ours["seed"] == 1]
    assert paired(pd.concat([ours, theirs]), "x", "y").gain.mean == pytest.approx(10)
    more = pd.concat([without_0, without_0.assign(seed=2, balanced_accuracy=0.9), theirs])
    assert paired(more, "x", "y").gain.mean == pytest.approx((10 + 90) / 2)


@pytest.mark.parametrize(
    ("gain", "words"),
    [(0.1, "sharing the common layers gives a gain"), (0.0, "cannot be told from zero"), (-0.1, "layers costs")],
)
def test_the_first_line_says_whether_sharing_pays(capsys, gain, words):
    def noise(site, k, seed):
        return 0.6 + 0.02 * (k % 2) - 0.02 * seed

    unshared = {"mf-scsn-unshared": noise}
    rows = scores(**{"mf-scsn": lambda site, k, seed: noise(site, k, 1 - seed) + gain}, **unshared)
    print_benchmark(rows, "made up")
    lines = capsys.readouterr().out.splitlines()
    assert words in lines[1] and any("joining, a subject" in line for line in lines)
    verdict = "joining pays" if gain > 0 else "joining costs" if gain < 0 else "by joining cannot be told from zero"
    assert verdict in lines[0] and "mf-scsn-unshared, the strongest of those that share nothing" in lines[0]


def test_the_strongest_rival_is_the_best_of_those_that_share_nothing():
    rows = scores(**{
        name: lambda site, k, seed, value=value: value
        for name, value in {"own-x": 0.5, "site-y": 0.7, "mf-scsn-unshared": 0.6, "mf-scsn": 0.8, "x-null": 0.9}.items()
    })  # fmt: skip
    assert strongest_alone(rows) == "site-y"
    assert strongest_alone(rows[rows["method"] == "mf-scsn"]) is None


def test_a_gain_is_over_the_subjects_that_both_have():
    rows = scores(x=lambda site, k, seed: 0.6, y=lambda site, k, seed: 0.5)
    few = rows[(rows["method"] == "x") | ((rows["site"] == "b") & (rows["subject"] != "b0"))]
    found = paired(few, "x", "y")
    assert found.n_subjects == 5 and found.gain.mean == pytest.approx(10)


def answering(seed):
    """Answer 30 trials of two classes, such a share of them rightly."""
    rng, labels = np.random.default_rng(seed), np.tile(["a", "b"], 15)
    return lambda share: "".join(label.upper() if rng.random() < share else label for label in labels)


def test_losers_are_counted_over_those_that_chance_makes():
    """Answers by hand: who is right a third of the time less loses; who differs by chance alone does not."""
    answers = answering(0)
    rows = scores(x=lambda site, k, seed: 0.0, y=lambda site, k, seed: 0.0)
    assert excess_losers(rows, "x", "y") is None  # kept before answers were
    many = pd.concat([rows.assign(subject=rows["subject"] + f"-{k}") for k in range(20)])
    fair = many.assign(answers=[answers(0.7) for _ in range(len(many))])
    assert abs(excess_losers(fair, "x", "y")) < 5
    worse = many.assign(answers=[answers(0.4 if method == "x" else 0.7) for method in many["method"]])
    assert excess_losers(worse, "x", "y") > 40
    assert excess_losers(worse, "y", "x") < -20
    merged = worse["answers"].where(
        worse["method"] == "x", worse["answers"].str.translate(str.maketrans("aAbB", "cCaA"))
    )
    assert excess_losers(worse.assign(answers=merged), "x", "y") > 40  # a rival's one list of labels: other letters
    one_seed = worse[(worse["method"] == "x") | (worse["seed"] == 1)]  # a rival that ran once, with any seed
    assert excess_losers(one_seed, "x", "y") > 40 and losing_sites(one_seed, "x", "y") == ["a", "b"]


def test_a_site_that_loses_is_named_and_one_that_does_not_is_not():
    answers = answering(1)
    rows = scores(x=lambda site, k, seed: 0.0, y=lambda site, k, seed: 0.0)
    assert losing_sites(rows, "x", "y") is None
    sites = zip(rows["method"], rows["site"], strict=True)
    shares = [0.5 if of_row == ("x", "a") else 0.8 for of_row in sites]
    rows = rows.assign(answers=[answers(share) for share in shares])
    assert losing_sites(rows, "x", "y") == ["a"] and losing_sites(rows, "y", "x") == []


def test_what_sharing_gives_is_shown_beside_null_and_centralised_training():
    values = {"site-y": 0.6, "mf-scsn-null": 0.55, "mf-scsn": 0.8, "centralised": 0.85}
    rows = scores(**{
        name: lambda site, k, seed, value=value: value + 0.01 * k for name, value in values.items()
    }).assign(fold=0)  # fmt: skip
    table = gain_table(pd.concat([rows, rows.assign(fold=1)]), searched=[0])
    cells = {str(column.header): list(map(str, column.cells)) for column in table.columns}
    assert cells["method"] == ["mf-scsn", "centralised"]
    assert cells["minus site-y"][0] == "+20.0 (+20.0 to +20.0)"
    assert cells["minus its null"] == ["+25.0 (+25.0 to +25.0)", "-"]
    assert cells["of the centralised gain"] == ["80 %", "-"]
    assert "minus site-y, folds 1, not searched" in cells
    head, *_ = [str(c.header) for c in benchmark_table(rows.assign(fold=1), "", [0]).columns if "not" in str(c.header)]
    assert head == "folds 1, not searched"
