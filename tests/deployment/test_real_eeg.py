"""Three sites with real EEG of different headsets and tasks; one of them dials through a door that writes down all."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SHARED, LoopGrid, mfscsn
from deployment.harness import Deployment, whole_federation
from deployment.recorder import Recorder, check_message, check_record, messages_of
from flwr.app import ArrayRecord

from experiments.prepare import prepare_sites
from experiments.simulate import train_rounds
from federation.contract import load_federation
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.site_network import server_network
from federation.strategy import RunFailed
from federation.tables import read_toml

EEG = SHARED / "eeg"
pytestmark = pytest.mark.skipif(not EEG.is_dir(), reason=f"{EEG} is not here")
METRICS, SCORES = {"loss"}, {"n_targets", "balanced_accuracy"}


@pytest.fixture(scope="module")
def ended(tmp_path_factory, repository):
    """A deployment after five rounds."""
    made = Deployment(tmp_path_factory.mktemp("deployed"))
    made.begin('name = "openmi"\n[training]\nrounds = 5\n')
    tables = {site["name"]: site for site in read_toml(repository / "experiments/federations/openmi.toml")["site"]}
    for name, table in tables.items():
        allowed = {"metrics": ["loss"], "scores": ["balanced_accuracy"]} if name == "grasp" else {"metrics": []}
        made.add_site(name, {**table, **allowed}, data_root=str(EEG))
    made.serve()
    made.recorder = Recorder(made.server, made.port)
    invitation = made.folder / "grasp" / "invitation.toml"
    invitation.write_text(invitation.read_text().replace(f":{made.port}", f":{made.recorder.port}"))
    made.join(*tables)
    made.names = list(tables)
    made.answer = made.train()
    yield made
    made.end()
    made.recorder.close()


def test_the_command_ends_well_and_shows_what_was_let_out(ended):
    code, out, err = ended.answer
    assert code == 0, out + err
    assert "grasp" in out and " 3 " in out and "run folder: " in out
    page = (ended.run().path / "report.html").read_text()
    assert "openbci" not in page and "right_hand" not in page  # a server knows no data set and no label
    rows = [row["status"] for row in ended.run().history()]
    assert rows == ["ok"] * 15
    text = (ended.run().path / "site-scores.csv").read_text().splitlines()
    assert text[0] == "site,status,n_targets,balanced_accuracy" and text[2:] == ["lrr,ok,,", "mmidb,ok,,"]
    assert text[1].startswith("grasp,ok,3,0.")


def test_equals_the_simulation_of_the_same_federation(ended):
    federation = prepare_sites(load_federation(whole_federation(ended, ended.names)), ended.folder / "store")
    simulated = RunFolder.create(ended.folder / "simulated", federation, ended.folder / "store", 1)
    train_rounds(simulated, lambda step: None)
    run = ended.run()
    for number in range(1, 6):
        ours, theirs = run.load_common(number), simulated.load_common(number)
        assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-5) for name in theirs), number
    # Each site's own layers as well, and they are nowhere else
    for name in ended.names:
        deployed = RunFolder(ended.site_run(name)).site(name).folder / "private.safetensors"
        assert deployed.stat().st_size == (simulated.path / "sites" / name / "private.safetensors").stat().st_size
        assert not list(ended.server.rglob("private*"))


def test_all_that_a_site_sends_is_what_the_contract_allows(ended):
    record = ended.recorder.record
    sent = messages_of(record)
    assert [message.metadata.message_type for message in sent] == ["train"] * 5 + ["evaluate"]
    layers = {name: tuple(v.shape) for name, v in server_network(ended.run().federation).common_state().items()}
    assert all(name.startswith("body.") for name in layers) and sum(map(np.prod, layers.values())) < 10_000
    check_record(record, layers, METRICS, SCORES, "grasp")
    for _, body in record:
        assert not [word for word in (b"right_hand", b"running_mean", b"extractors", b"openbci") if word in body]
        if len(body) < 4096:  # among the numbers of the layers, a short word can stand by chance
            assert not [word for word in (b"rest", b"sub-", b"heads") if word in body]


def test_the_check_fails_when_a_batch_norm_buffer_is_sent(make_run, monkeypatch):
    """The same check of the same client app, once as it is, once with a buffer among what it sends."""
    for leaks in (False, True):
        run, checked = make_run(f"leaks-{leaks}", north='metrics = ["loss"]'), []
        layers = {k: tuple(v.shape) for k, v in server_network(run.federation).common_state().items()}

        def look(number, site, reply, layers=layers, checked=checked):
            if site == "north":
                try:
                    check_message(reply, layers, METRICS, SCORES, "north")
                    checked.append(True)
                except AssertionError:
                    checked.append(False)
            return reply

        if leaks:
            monkeypatch.setattr("federation.client_app.ArrayRecord", _with_a_buffer)
            with pytest.raises(RunFailed, match="sent other layers"):  # nor does the server take it
                federate(LoopGrid(run, look), run)
            assert checked == [False]
        else:
            federate(LoopGrid(run, look), run)
            assert checked == [True, True]


def _with_a_buffer(layers):
    return ArrayRecord({**layers, "extractors.clinic.norm.running_mean": torch.zeros(40)})


def test_a_site_scores_its_own_targets_and_forgets(ended):
    home = ended.folder / "lrr"
    code, out, err = mfscsn("site", "evaluate", home, cwd=ended.folder)
    assert code == 0, err
    assert "mf-scsn" in out and "001" in out and "mmidb" not in out
    assert "right_hand" in (ended.site_run("lrr") / "report.html").read_text()
    code, out, _ = mfscsn("site", "forget", home, cwd=ended.folder)
    assert code == 0 and "kept (--runs removes)" in out
    code, _, err = mfscsn("site", "forget", home, "--runs", cwd=ended.folder)
    assert code == 2 and "`mfscsn site run` is at work here" in err
    copied = shutil.copytree(home, ended.folder / "lrr-left")
    code, out, _ = mfscsn("site", "forget", copied, "--runs", "--trials", "--key", cwd=ended.folder)
    assert code == 0 and out.count("removed: ") == 3
    left = sorted(path.name for path in copied.iterdir() if not path.name.startswith("."))
    assert left == ["audit.jsonl", "flower", "invitation.toml", "site.toml"]  # what has left stays written down


def test_status_is_for_people_and_monitors(ended):
    code, out, _ = mfscsn("server", "status", ended.server, "--json", cwd=ended.folder)
    found = json.loads(out)
    assert code == 0 and found["server"] == "running" and found["certificate_days"] > 700
    assert all(site["connected"] for site in found["sites"].values()) and len(found["sites"]) == 3
    assert found["run"]["state"] == "ended" and found["run"]["round"] == found["run"]["rounds"] == 5
    code, out, _ = mfscsn("server", "status", ended.server, cwd=ended.folder)
    assert code == 0 and "site grasp: connected" in out and "ended, round 5 of 5" in out


def test_logs_name_round_and_site_and_nothing_else(ended):
    log = (ended.site_run("mmidb") / "sites" / "mmidb" / "log.txt").read_text()
    assert "site mmidb round 3: 540 trials, loss" in log
    for word in ("left_hand", "hands", "feet", "009", "C3", "eegmmidb"):
        assert word not in log.replace("site mmidb", "")
