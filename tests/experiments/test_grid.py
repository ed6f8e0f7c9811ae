"""Every combination, in a folder of its own, checked before the first one runs."""

import pandas as pd
import pytest
from conftest import mfscsn, refused, tiny_toml

from data.errors import InputError
from experiments.grid import combinations
from federation.contract import load_federation


def test_combinations_are_named_and_checked_before_anything_runs(tmp_path, tiny_file):
    grid, federation = tmp_path / "grid.toml", load_federation(tiny_file)
    grid.write_text("[training]\nlr = [0.001, 0.01]\n[contract]\nalignment = ['euclidean', 'standard']\n")
    found = dict(combinations(grid, federation))
    assert list(found)[1:3] == ["lr=0.001,alignment=standard", "lr=0.01,alignment=euclidean"] and len(found) == 4
    one = found["lr=0.01,alignment=standard"]
    assert (one.training.lr, one.contract.alignment, one.contract.sfreq) == (
        0.01,
        "standard",
        federation.contract.sfreq,
    )
    assert one.site == federation.site and one.training.rounds == federation.training.rounds
    for text, fault in (
        ("[training]\nlr = [0.1, -1]\n", "lr=-1: training, lr"),
        ("[training]\nlrr = [0.1]\n", "lrr: unknown key; did you mean 'lr'"),
        ("[training]\nlr = []\n", "at least one key a list"),
        ("[site]\nname = ['a']\n", "site: unknown key"),
        (f"[training]\nseed = {list(range(300))}\n", "300 combinations; at most 200"),
    ):
        grid.write_text(text)
        with pytest.raises(InputError, match="grid.toml") as error:
            list(combinations(grid, federation))
        assert fault in str(error.value)


def test_the_one_round_of_one_message_is_not_handed_on(tmp_path):
    labels = 'labels = ["left_hand", "right_hand", "rest"]'
    one = f'strategy = "one-message"\nsecure_aggregation = false\n{labels}'
    text = tiny_toml(extractor="common-space", contract=one)
    (tmp_path / "fed.toml").write_text(text.replace("rounds = 2\n", ""))
    (tmp_path / "grid.toml").write_text("[contract]\nstrategy = ['fedavg']\n")
    ((_, other),) = combinations(tmp_path / "grid.toml", load_federation(tmp_path / "fed.toml"))
    assert other.training.rounds == 200 and other.contract.strategy == "fedavg"


def test_a_grid_is_run_compared_and_gone_on_with(tmp_path, tiny_file, prepared):
    (tmp_path / "grid.toml").write_text("[training]\nlr = [0.001, 0.01]\n")
    words = ("--grid", "grid.toml", "--rounds", "1", "--store", prepared)
    code, out, err = mfscsn("simulate", tiny_file, *words, "--out", "many", cwd=tmp_path)
    assert code == 0, out + err
    assert "2 of 2: lr=0.01" in out and "lr=0.001: mf-scsn" in out and "tuned on its targets" in out
    scores = tmp_path / "many" / "lr=0.001" / "scores.csv"
    assert pd.read_csv(scores)["balanced_accuracy"].notna().all()
    before = scores.stat().st_mtime_ns
    (tmp_path / "many" / "lr=0.01" / "scores.csv").unlink()
    code, out, err = mfscsn("simulate", tiny_file, *words, "--resume", "many", cwd=tmp_path)
    assert code == 0 and scores.stat().st_mtime_ns == before, err
    assert "already exists" in refused("simulate", tiny_file, *words, "--out", "many", cwd=tmp_path)
