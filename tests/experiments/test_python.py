"""A federation from Python, as a notebook has it."""

import csv
import tomllib

import pytest
from conftest import tiny_toml

import mfscsn
from data.errors import InputError


def test_a_federation_is_simulated_from_a_mapping_or_a_file(tmp_path, tiny_file, prepared):
    steps = []
    run = mfscsn.simulate(tiny_file, tmp_path / "run", rounds=1, seed=3, store=prepared, progress=steps.append)
    assert (run.path / "report.html").exists() and run.federation.training.seed == 3
    assert {step.stage for step in steps} == {"rounds", "references", "scores"}
    with (run.path / "scores.csv").open() as file:
        scores = list(csv.DictReader(file))
    other = mfscsn.simulate(tomllib.loads(tiny_toml()), tmp_path / "same", rounds=1, seed=3, store=prepared)
    with (other.path / "scores.csv").open() as file:
        assert list(csv.DictReader(file)) == scores
    assert mfscsn.load_run(run.path).last_round() == 1
    with pytest.raises(InputError, match="already exists"):
        mfscsn.simulate(tiny_file, tmp_path / "run", store=prepared)
    with pytest.raises(InputError, match="no run here"):
        mfscsn.load_run(tmp_path)
