"""Real EEG, from a folder beside the repository; skipped where that is absent."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED, LoopGrid

from experiments.benchmark.run import Job, run_job, shuffled_store
from experiments.evaluate import evaluate
from experiments.prepare import prepare_sites
from experiments.references import reference_jobs, train_references
from federation.contract import Federation, load_federation
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.site_trials import SiteTrials

FEDERATIONS = Path(__file__).resolve().parents[2] / "experiments" / "federations"
OPENMI = pytest.mark.skipif(not (SHARED / "eeg").is_dir(), reason="../shared/eeg is absent")
PHYSIONET = pytest.mark.skipif(
    not (SHARED / "mne_data").is_dir(), reason="no ../shared/mne_data with PhysioNet's files"
)


@pytest.fixture(scope="module")
def openmi(tmp_path_factory) -> tuple[Federation, Path]:
    store = tmp_path_factory.mktemp("openmi")
    federation = load_federation(FEDERATIONS / "openmi.toml", SHARED / "eeg")
    prepare_sites(federation, store)
    return federation, store


@OPENMI
def test_the_fixed_split_has_the_published_numbers_of_trials(openmi):
    federation, store = openmi
    found = {
        site.name: (
            {branch: t.signals.shape for branch, t in SiteTrials(site, federation.contract, store).training().items()},
            [len(t.labels) for t in SiteTrials(site, federation.contract, store).calibration().values()],
            [
                (t.subject, len(t.labels), len(t.outputs))
                for t in SiteTrials(site, federation.contract, store).targets()
            ],
        )
        for site in federation.site
    }
    targets = ("009", "010", "011", "012")
    # Signals in the common space
    assert found["mmidb"] == (
        {"eegmmidb": (8 * 60 + 4 * 15, 21, 416)},
        [15] * 4,
        [(s, 30, 2) for s in targets],
    )
    assert found["grasp"][0]["openbci_grasp"][1:] == (21, 416) and found["grasp"][1] == [40, 40, 40]
    assert [(s, n) for s, _, n in found["grasp"][2]] == [("005", 2), ("006", 2), ("007", 2)]
    assert found["lrr"] == ({"openbci_lrr": (120, 21, 416)}, [60, 60], [("001", 475, 3), ("002", 210, 3)])


@OPENMI
def test_a_few_rounds_on_real_eeg_beat_chance_where_the_task_is_easy(openmi, tmp_path):
    federation, store = openmi
    training = federation.training.model_copy(update={"rounds": 10})
    run = RunFolder.create(tmp_path / "run", federation.model_copy(update={"training": training}), store, 1)
    federate(LoopGrid(run), run)
    train_references(run, reference_jobs(run), lambda done, total: None)
    scores = evaluate(run)
    assert len(scores) == 9 * 3
    grasp = [s.balanced_accuracy for s in scores if s.site == "grasp" and s.method == "mf-scsn"]
    assert np.mean(grasp) > 0.56


@PHYSIONET
def test_moabbs_unmodified_loader(tmp_path, monkeypatch):
    monkeypatch.setenv("MNE_DATA", str(SHARED / "mne_data"))
    monkeypatch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")
    (tmp_path / "physionet.toml").write_text("""
[training]
rounds = 2

[[site]]
name = "physionet"

[[site.dataset]]
source = "moabb:PhysionetMI"
subjects = [1, 42]
tasks = ["left_hand", "right_hand", "hands", "feet"]
targets = [42]
calibration = { runs = ["0", "3"] }
""")
    federation = load_federation(tmp_path / "physionet.toml")
    prepare_sites(federation, tmp_path / "store")
    run = RunFolder.create(tmp_path / "run", federation, tmp_path / "store", 1)
    federate(LoopGrid(run), run)
    train_references(run, reference_jobs(run), lambda done, total: None)
    scores = evaluate(run)
    assert {(s.dataset, s.subject, s.n_test) for s in scores} == {("PhysionetMI", "42", 60)}


@OPENMI
@pytest.mark.parametrize("method", ["own-adaptive", "site-weighted-adaptive", "mf-scsn"])
def test_shuffled_labels_give_chance(openmi, tmp_path, method):
    """A label that leaked from the test trials would show: chance is 50, 50 and 33 percent at the three sites."""
    federation, store = openmi
    fewer = federation.training.model_copy(update={"rounds": 50})  # a leak is learned as soon as any label is
    federation = federation.model_copy(update={"training": fewer})
    shuffled_store(store, tmp_path / "shuffled", seed=1)
    rows = pd.DataFrame(run_job(Job(method, 0, None), federation, tmp_path / "shuffled"))
    of_sites = rows.groupby("site")["balanced_accuracy"].mean()
    expected = {"mmidb": (0.5, 4 * 30), "grasp": (0.5, 3 * 120), "lrr": (1 / 3, 475 + 210)}
    for site, (chance, n) in expected.items():
        assert abs(of_sites[site] - chance) < 4 * (chance * (1 - chance) / n) ** 0.5, (site, of_sites[site])
