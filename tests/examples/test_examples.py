"""The examples run as they stand, in the order in which a reader would try them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED, write_bids

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name, *words, cwd, **environment) -> str:
    done = subprocess.run(
        [sys.executable, "-P", EXAMPLES / name, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    out = example("simulate.py", "run", cwd=folder)
    assert out.strip().endswith("report.html") and "mf-scsn" in out
    return folder / "run"


def test_a_run_is_read(run):
    out = example("read_run.py", run, cwd=run.parent)
    assert "balanced accuracy, percent" in out and "n_chans=16, n_outputs=2" in out


def test_its_layers_are_adopted(run):
    out = example("adopt.py", run, "new", cwd=run.parent)
    assert "mf-scsn" in out and (run.parent / "new" / "report.html").exists()


def test_an_own_folder(tmp_path):
    write_bids(tmp_path / "mine", ["01", "02", "03"], ["1", "2"], ["C3", "Cz", "C4", "Fz"])
    out = example("own_bids.py", "mine", "run", cwd=tmp_path)
    assert "tasks ['left_hand', 'right_hand']" in out and (tmp_path / "run" / "report.html").exists()


def test_moabb_evaluates_on_simulated_subjects(tmp_path):
    out = example("moabb_pipeline.py", "--simulated", cwd=tmp_path, MNE_DATA=str(tmp_path))
    for word in (
        "WithinSessionEvaluation: ROC AUC",
        "CrossSubjectEvaluation: ROC AUC",
        "MF-SCSN, one site",
        "CSP + LDA",
    ):
        assert word in out


@pytest.mark.skipif(not (SHARED / "mne_data").is_dir(), reason="no ../shared/mne_data with PhysioNet's files")
def test_moabb_evaluates_on_real_subjects(tmp_path):
    files = {"MNE_DATA": str(SHARED / "mne_data"), "MOABB_DOWNLOAD_PROVIDER": "upstream"}
    out = example("moabb_pipeline.py", cwd=tmp_path, **files)
    rows = [line.split() for line in out.splitlines() if line.startswith(("1 ", "42 "))]
    assert len(rows) == 4 and all(0 <= float(value) <= 1 for row in rows for value in row[1:3])
