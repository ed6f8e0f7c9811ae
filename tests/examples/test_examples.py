"""The examples run as they stand, in the order in which a reader would try them."""

import io
import runpy
import subprocess
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path

import nbformat
import pytest
from conftest import SHARED, write_bids
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name, *words, cwd) -> str:
    """Run an example in this process, as `python` would."""
    out = io.StringIO()
    with chdir(cwd), redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(EXAMPLES / name), *map(str, words)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return out.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    done = subprocess.run(  # a real start: its processes import the script
        [sys.executable, "-P", EXAMPLES / "simulate.py", "run"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("report.html") and "mf-scsn" in done.stdout
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


def test_moabb_evaluates_on_simulated_subjects(tmp_path, monkeypatch):
    monkeypatch.setenv("MNE_DATA", str(tmp_path))
    out = example("moabb_pipeline.py", "--simulated", cwd=tmp_path)
    for word in (
        "WithinSessionEvaluation: ROC AUC",
        "CrossSubjectEvaluation: ROC AUC",
        "MF-SCSN, one site",
        "CSP + LDA",
    ):
        assert word in out


@pytest.mark.skipif(not (SHARED / "mne_data").is_dir(), reason="no ../shared/mne_data with PhysioNet's files")
def test_moabb_evaluates_on_real_subjects(tmp_path, monkeypatch):
    monkeypatch.setenv("MNE_DATA", str(SHARED / "mne_data"))
    monkeypatch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")
    out = example("moabb_pipeline.py", cwd=tmp_path)
    rows = [line.split() for line in out.splitlines() if line.startswith(("1 ", "42 "))]
    assert len(rows) == 4 and all(0 <= float(value) <= 1 for row in rows for value in row[1:3])


def test_laboratories_are_compared_across_data_sets(tmp_path):
    out = example("moabb_across.py", "--simulated", cwd=tmp_path)
    assert out.count("ROC AUC on subjects that were not seen") == 2 and out.count(", 2 subjects") == 2
    assert "common space + tangent space + LR" in out and "MF-SCSN, one site" in out


def test_plain_flower_trains_with_mfscsn_alone():
    """What its folder does in a round; Flower's own engine calls it in the same way."""
    apps = runpy.run_path(str(EXAMPLES / "plain_flower" / "apps.py"))
    layers = apps["ARCHITECTURE"].build({"any": apps["Branch"](3, 2, apps["LABELS"])}).common_state()
    context = Context(1, 7, {"partition-id": 1, "num-partitions": 3}, RecordDict(), {})
    losses = []
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 7  # as Flower's own processes do
    for number in (1, 2, 3):
        content = RecordDict({"arrays": ArrayRecord(layers), "config": ConfigRecord({"server-round": number})})
        message = Message(content, dst_node_id=7, message_type="train")
        message.metadata.__dict__["_message_id"] = str(number)
        reply = apps["client"](message, context)
        layers = reply.content["arrays"].to_torch_state_dict()
        losses.append(reply.content["metrics"]["loss"])
    assert losses[2] < losses[0] and "private" in context.state


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    notebook = nbformat.read(EXAMPLES.parent / "docs" / "tutorial.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # what it shows is what a reader gets
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", []) if "data" in out]
    assert "mf-scsn" in shown[1]["data"]["text/plain"] and "array" in shown[-1]["data"]["text/plain"]
