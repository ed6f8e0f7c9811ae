"""Whole runs through real Flower: SuperLink, simulation engine, client apps in processes of their own."""

import csv
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import LoopGrid, tiny_toml

from experiments.evaluate import evaluate
from experiments.references import reference_jobs, train_references
from experiments.simulate import simulate
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.superlink import superlink

REPOSITORY = Path(__file__).resolve().parents[2]
MFSCSN = str(Path(sys.executable).with_name("mfscsn"))
RECORDING_APP = """
import pickle

from flwr.serverapp import ServerApp

from federation import client_app, server_app

client = client_app.app
server = ServerApp()


class Recorder:
    def __init__(self, grid, path):
        self.grid, self.path = grid, path

    def __getattr__(self, name):
        return getattr(self.grid, name)

    def keep(self, way, message):
        content = {
            key: {k: (v.shape, v.numpy()) if hasattr(v, "numpy") else v for k, v in record.items()}
            for key, record in message.content.items()
        }
        with self.path.open("ab") as out:
            pickle.dump((way, message.metadata.message_type, content), out)

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        for message in messages:
            self.keep("down", message)
        replies = list(self.grid.send_and_receive(messages, timeout=timeout))
        for reply in replies:
            self.keep("up", reply)
        return replies


@server.main()
def main(grid, context):
    run = server_app.open_run(context)
    server_app.federate(Recorder(grid, run.path / "messages.pickle"), run)
"""


def looped(run: RunFolder) -> RunFolder:
    """The same run in one process without Flower's transport: what an unbroken run must equal."""
    federate(LoopGrid(run), run)
    train_references(run, reference_jobs(run), lambda done, total: None)
    evaluate(run)
    return run


def command(folder: Path, prepared: Path, *words) -> list[str]:
    return [MFSCSN, "simulate", str(folder / "tiny.toml"), "--store", str(prepared), *map(str, words)]


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def left_over(processes) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_from_recordings_to_scores(tmp_path, prepared, tiny_file, make_run):
    done = subprocess.run(command(tmp_path, prepared, "--out", "run"), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = RunFolder(tmp_path / "run")
    assert "mf-scsn" in done.stdout and "run folder: run" in done.stdout
    files = "common environment.json federation.toml flower.log history.csv scores.csv sites timing.csv"
    assert sorted(p.name for p in run.path.iterdir() if not p.name.startswith(".")) == files.split()
    with (run.path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["site", "dataset", "subject", "method", "seed", "n_test", "balanced_accuracy"]
    assert [(r["site"], r["subject"], r["method"]) for r in rows] == [
        (site, subject, method)
        for site, subject in (("north", "3"), ("south", "1"), ("south", "2"))
        for method in ("own-calibration", "local-site", "mf-scsn")
    ]
    # Flower moves messages and nothing else: a plain loop over the same apps gives the same bytes
    loop = looped(make_run("loop"))
    for name in ("history.csv", "scores.csv"):
        assert (run.path / name).read_bytes() == (loop.path / name).read_bytes()
    again = subprocess.run([MFSCSN, "evaluate", str(run.path)], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0 and (run.path / "scores.csv").read_bytes() == (loop.path / "scores.csv").read_bytes()


def test_every_message_holds_common_layers_counts_and_allowed_metrics_alone(make_run, monkeypatch):
    monkeypatch.setattr("federation.app_bundle.APP_MODULE", RECORDING_APP)
    run = make_run(north='metrics = ["loss"]')
    simulate(run, lambda step: None)
    messages = []
    with (run.path / "messages.pickle").open("rb") as file:
        while file.peek(1):
            messages.append(pickle.load(file))
    assert len(messages) == 2 * 2 * 2 and {kind for _, kind, _ in messages} == {"train"}
    layers = {"common.0.weight": (50, 40 * 26), "common.0.bias": (50,)}
    for way, _, content in messages:
        assert {name: shape for name, (shape, _) in content["common"].items()} == layers
        if way == "down":
            assert set(content) == {"common", "config"}
            assert set(content["config"]) == {"server-round", "run", "rounds", "contract"}
        else:
            assert set(content) == {"common", "metrics", "site"} and set(content["site"]) == {"name"}
            allowed = {"loss"} if content["site"]["name"] == "north" else {"loss", "accuracy", "seconds"}
            assert set(content["metrics"]) == {"num-examples"} | allowed
            assert all(isinstance(value, int | float) for value in content["metrics"].values())


def test_killed_and_resumed_as_if_unbroken(tmp_path, prepared, make_run):
    (tmp_path / "tiny.toml").write_text(tiny_toml().replace("rounds = 2", "rounds = 30"))
    process = subprocess.Popen(command(tmp_path, prepared, "--out", "run"), cwd=tmp_path, stdout=subprocess.DEVNULL)
    common = tmp_path / "run" / "common"
    wait_for(lambda: (common / "round-0003.safetensors").exists())
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(below) > 3
    wait_for(lambda: not left_over(below), 30.0)
    reached = RunFolder(tmp_path / "run").last_round()
    assert 3 <= reached < 30
    done = subprocess.run(command(tmp_path, prepared, "--resume", "run"), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    loop = looped(RunFolder.create(tmp_path / "loop", RunFolder(tmp_path / "run").federation, prepared, 1))
    for name in ("history.csv", "scores.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (loop.path / name).read_bytes()


def test_ctrl_c_leaves_no_process_and_a_run_that_can_go_on(tmp_path, prepared):
    (tmp_path / "tiny.toml").write_text(tiny_toml().replace("rounds = 2", "rounds = 500"))
    process = subprocess.Popen(
        command(tmp_path, prepared, "--out", "run"), cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "run" / "common" / "round-0002.safetensors").exists())
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted; the same command with --resume run goes on"
    assert len(below) > 3 and not left_over(below)


def test_a_run_that_fails_says_why_and_exits_with_1(make_run, copied_store):
    run = make_run(store=copied_store)
    next(copied_store.glob("clinic-*/sub-2.npy")).write_bytes(b"half")
    with pytest.raises(RuntimeError) as caught:
        simulate(run, lambda step: None)
    message = str(caught.value)
    assert "round 1: 1 of 2 sites answered well" in message and "sub-2.npy: damaged" in message
    assert "\n" not in message and "RoundFailed" in (run.path / "flower.log").read_text()


def test_plain_flower_runs_this_repository(tmp_path, prepared, tiny_file):
    """`flwr run .` against a SuperLink that somebody started."""
    values = {"federation": tiny_file, "store": prepared, "run": tmp_path / "run"}
    with superlink(tmp_path / "flower.log") as link:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("flwr")), "run", ".", "mfscsn",
                "--run-config", " ".join(f'{key}="{value}"' for key, value in values.items()),
                "--federation-config", "num-supernodes=2 client-resources-num-cpus=1",
            ],
            cwd=REPOSITORY, env=link.environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for(lambda: (tmp_path / "run" / "common" / "round-0002.safetensors").exists())
    assert RunFolder(tmp_path / "run").last_round() == 2
