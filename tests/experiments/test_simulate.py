"""Whole runs: Flower's apps in processes of their own, and beside them Flower's own simulation engine."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import MFSCSN, LoopGrid, mfscsn, refused, tiny_toml

from data.store import Store
from experiments.evaluate import evaluate
from experiments.predict import FederatedModel
from experiments.references import reference_jobs, train_references
from experiments.simulate import simulate, train_rounds, train_through_flower
from federation.deployment.superlink import superlink
from federation.local_grid import LocalGrid
from federation.run_folder import RunFolder
from federation.server_app import federate

REPOSITORY = Path(__file__).resolve().parents[2]


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
    files = "common environment.json federation.toml figures flower.log history.csv predictions.csv report.html"
    files += " scores.csv sites timing.csv"
    assert sorted(p.name for p in run.path.iterdir() if not p.name.startswith(".")) == files.split()
    with (run.path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    known = ["site", "dataset", "subject", "method", "seed", "n_test"]
    assert list(rows[0]) == [*known, "balanced_accuracy", "accuracy", "kappa", "auc"]
    assert [(r["site"], r["subject"], r["method"]) for r in rows] == [
        (site, subject, method)
        for site, subject in (("north", "3"), ("south", "1"), ("south", "2"))
        for method in ("own-calibration", "local-site", "mf-scsn")
    ]
    # Flower moves messages and nothing else: a plain loop over the same apps gives the same bytes
    loop = looped(make_run("loop"))
    for name in ("history.csv", "scores.csv"):
        assert (run.path / name).read_bytes() == (loop.path / name).read_bytes()
    (run.path / "scores.csv").unlink()
    code, out, _ = mfscsn("evaluate", run.path, cwd=tmp_path)
    assert code == 0 and "mf-scsn" in out
    assert (run.path / "scores.csv").read_bytes() == (loop.path / "scores.csv").read_bytes()


def test_every_message_holds_common_layers_counts_and_allowed_metrics_alone(make_run, monkeypatch):
    seen, plain = [], LocalGrid.send_and_receive

    def keep(way, message):
        content = {
            key: {k: (v.shape, v.numpy()) if hasattr(v, "numpy") else v for k, v in record.items()}
            for key, record in message.content.items()
        }
        seen.append((way, message.metadata.message_type, content))

    def recorded(grid, messages, *, timeout=None):
        sent = list(messages)
        for message in sent:
            keep("down", message)
        replies = plain(grid, sent, timeout=timeout)
        for reply in replies:
            keep("up", reply)
        return replies

    monkeypatch.setattr(LocalGrid, "send_and_receive", recorded)
    simulate(make_run(north='metrics = ["loss"]'), lambda step: None)
    assert len(seen) == 2 * 2 * 2 and {kind for _, kind, _ in seen} == {"train"}
    layers = {"common.0.weight": (50, 40 * 26), "common.0.bias": (50,)}
    for way, _, content in seen:
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
    (tmp_path / "tiny.toml").write_text(tiny_toml().replace("rounds = 2", "rounds = 20"))
    process = subprocess.Popen(command(tmp_path, prepared, "--out", "run"), cwd=tmp_path, stdout=subprocess.DEVNULL)
    common = tmp_path / "run" / "common"
    wait_for(lambda: (common / "round-0003.safetensors").exists())
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(below) >= 3
    wait_for(lambda: not left_over(below), 30.0)
    reached = RunFolder(tmp_path / "run").last_round()
    assert 3 <= reached < 20
    code, out, err = mfscsn(*command(tmp_path, prepared, "--resume", "run")[1:], cwd=tmp_path)
    assert code == 0, out + err
    loop = looped(RunFolder.create(tmp_path / "loop", RunFolder(tmp_path / "run").federation, prepared, 1))
    for name in ("history.csv", "scores.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (loop.path / name).read_bytes()


def test_ctrl_c_leaves_no_process_and_a_run_that_can_go_on(tmp_path, prepared):
    (tmp_path / "tiny.toml").write_text(tiny_toml().replace("rounds = 2", "rounds = 500"))
    process = subprocess.Popen(
        command(tmp_path, prepared, "--out", "run"), cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, start_new_session=True,
        # a suite that runs in a shell's background was told to ignore it, and hands that down
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "run" / "common" / "round-0002.safetensors").exists())
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted; the same command with --resume run goes on"
    assert len(below) >= 3
    wait_for(lambda: not left_over(below), 30.0)  # on a busy machine the last of them takes a moment


def test_a_run_that_fails_says_why_and_exits_with_1(make_run, copied_store):
    run = make_run(store=copied_store)
    next(copied_store.glob("clinic-*/sub-2.npy")).write_bytes(b"half")
    with pytest.raises(RuntimeError) as caught:
        simulate(run, lambda step: None)
    message = str(caught.value)
    assert "round 1: 1 of 2 sites answered well" in message and "sub-2.npy: damaged" in message
    assert "\n" not in message and "RoundFailed" in (run.path / "flower.log").read_text()


def test_plain_flower_runs_this_repository_and_gives_the_same_layers(tmp_path, prepared, tiny_file, make_run):
    """`flwr run .` against a SuperLink that somebody started: Flower's own simulation engine, over Ray."""
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
    ours, steps = make_run("ours"), []
    train_through_flower(ours, steps.append)  # `simulate --engine flower`
    assert [step.done for step in steps] in ([0, 1, 2], [0, 2])  # it looks now and then: two rounds may have passed
    same = make_run("same")
    train_rounds(same, lambda step: None)
    assert (ours.path / "history.csv").read_bytes() == (same.path / "history.csv").read_bytes()
    for name, layer in ours.load_common(2).items():
        assert torch.equal(layer, same.load_common(2)[name])
    theirs = RunFolder(tmp_path / "run").load_common(2)
    for name, layer in ours.load_common(2).items():
        assert torch.equal(layer, theirs[name])


def test_a_site_whose_process_is_killed_fails_its_round_alone(make_run, monkeypatch):
    run = make_run()
    grids, begin = [], LocalGrid.__enter__
    monkeypatch.setattr(LocalGrid, "__enter__", lambda grid: grids.append(grid) or begin(grid))

    def kill(step):
        if step.done == 1:  # between two rounds; the next message finds nobody
            for process in grids[0].pool._processes.values():
                process.kill()

    with pytest.raises(RuntimeError, match=r"round 2: 0 of 2 sites answered well.*Flower's error 0"):
        simulate(run, kill)
    assert run.last_round() == 1
    monkeypatch.undo()
    simulate(run, lambda step: None)
    assert run.last_round() == 2


def test_a_site_that_takes_too_long_is_not_waited_for(make_run):
    # 100,000 epochs are minutes on any machine: a fast one answered a single epoch within the deadline
    run = make_run(contract="deadline = 0.05", training="local_epochs = 100000")
    with pytest.raises(RuntimeError, match="gave no answer"):
        simulate(run, lambda step: None)


def test_a_target_shown_without_labels_is_scored(tmp_path, prepared, tiny_file):
    tiny_file.write_text(tiny_file.read_text().replace('{ runs = ["0"] }', '{ runs = ["0"], first = 0 }'))
    code, _, err = mfscsn("simulate", "tiny.toml", "--store", prepared, "--out", "run", cwd=tmp_path)
    assert code == 0, err
    with (tmp_path / "run" / "scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["site"], row["subject"]) == ("north", "3")]
    assert {row["method"] for row in rows} == {"own-calibration", "local-site", "mf-scsn"}
    run = RunFolder(tmp_path / "run")
    dataset = run.federation.site[0].dataset[0]
    trials = Store(dataset.recipe(run.federation.contract).folder(prepared)).trials("3")
    predicted = FederatedModel(run, "north").told("3", trials)
    assert len(predicted.probabilities) == len(trials) and not predicted.known


def test_a_graphics_card_that_is_not_there_is_said_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "fed.toml").write_text(tiny_toml())
    err = refused("simulate", "fed.toml", "--device", "cuda", "--out", "run", cwd=tmp_path)
    assert 'device = "cuda", but torch sees no graphics card here' in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fed.toml"]
