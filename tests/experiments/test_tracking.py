"""TensorBoard and MLflow get what a run keeps, and no more."""

import pytest
from conftest import LoopGrid, mfscsn, refused

from data.files import write_csv
from experiments.evaluate import COLUMNS
from federation.server_app import federate


@pytest.fixture
def finished(make_run):
    run = make_run()
    federate(LoopGrid(run), run)
    write_csv(run.path / "scores.csv", COLUMNS, [["north", "clinic", "3", "mf-scsn", 0, 8, 0.75, 0.75, 0.5, 0.8]])
    return run


def test_tensorboard_has_each_round_of_each_site(finished, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, out, _ = mfscsn("track", finished.path, "--to", f"tensorboard:{tmp_path / 'logs'}", "--follow", cwd=tmp_path)
    assert code == 0 and "rounds 1 to 2" in out
    events = EventAccumulator(str(tmp_path / "logs" / finished.path.name))
    events.Reload()
    for row in finished.history():
        (value,) = [e.value for e in events.Scalars(f"loss/{row['site']}") if e.step == int(row["round"])]
        assert value == pytest.approx(float(row["loss"]))
    assert [e.value for e in events.Scalars("score/mf-scsn/north")] == [0.75]
    told = " ".join([*events.Tags()["scalars"], *events.Tags()["tensors"]])
    assert "training.lr" in told and not any(word in told for word in ("source", "subjects", "seed_", "data_root"))


def test_mlflow_has_them_too(finished, tmp_path):
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code, _, err = mfscsn("track", finished.path, "--to", f"mlflow:{store}", cwd=tmp_path)
    assert code == 0, err
    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("mfscsn").experiment_id])
    history = client.get_metric_history(run.info.run_id, "accuracy/south")
    assert [m.step for m in history] == [1, 2]
    assert run.data.metrics["score/mf-scsn/north"] == 0.75 and run.data.params["training.rounds"] == "2"
    assert run.info.status == "FINISHED" and not any("source" in name for name in run.data.params)


@pytest.mark.parametrize("where", ["tensorboard", "wandb:x", "mlflow:"])
def test_somewhere_else_is_refused(finished, tmp_path, where):
    assert "expected tensorboard:FOLDER or mlflow:URI" in refused("track", finished.path, "--to", where, cwd=tmp_path)
