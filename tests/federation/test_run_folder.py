import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from data.errors import InputError
from data.files import check_free
from federation.run_folder import RunFolder, run_path

LAYERS = {"common.0.bias": torch.zeros(2)}


def finish(run, number, loss=0.5, server=None):
    rows = [{"round": number, "site": "north", "status": "ok", "n_trials": 40, "loss": loss, "accuracy": 0.5}]
    times = [{"round": number, "site": "north", "seconds": 0.1, "round_seconds": 0.2}]
    run.finish_round(number, LAYERS, server or {}, rows, times)


def test_begun_in_a_new_folder_with_all_that_explains_it(make_run):
    run = make_run()
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["packages"]["torch"] == version("torch") and environment["seed"] == 0
    assert RunFolder(run.path).federation == run.federation and run.last_round() == 0


def test_an_existing_folder_is_refused_and_left_alone(make_run):
    run = make_run()
    before = sorted(p.name for p in run.path.iterdir())
    with pytest.raises(InputError, match="already exists; give another --out, or continue it with --resume"):
        RunFolder.create(run.path, run.federation, run.store, 1)
    assert sorted(p.name for p in run.path.iterdir()) == before


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run here"):
        RunFolder(tmp_path)


def test_what_an_unfinished_round_wrote_is_dropped(make_run):
    run = make_run()
    finish(run, 1)
    status = "sent the records ['a', 'b'], expected others"
    rows = [{"round": 2, "site": "south", "status": status, "n_trials": "", "loss": "", "accuracy": ""}]
    run.finish_round(2, LAYERS, {}, rows, [])
    whole = (run.path / "history.csv").read_bytes()
    with (run.path / "history.csv").open("a") as out:
        out.write("3,north,ok,40,0.4,0.6\n3,sou")
    run.fail("power cut")
    run.drop_unfinished()
    assert (run.path / "history.csv").read_bytes() == whole and run.failure() is None and run.last_round() == 2


def test_the_server_optimisers_last_two_states_are_kept(make_run):
    run = make_run()
    for number in (1, 2, 3):
        finish(run, number, server={"m_t/x": torch.full((1,), float(number))})
    assert [len(run.load_server_optimiser(number)) for number in (1, 2, 3)] == [0, 1, 1]
    assert run.load_common(3).keys() == LAYERS.keys()


def test_one_writer_at_a_time(make_run):
    run = make_run()
    other = (
        "from pathlib import Path; from federation.run_folder import RunFolder, check_free; import time\n"
        f"with RunFolder(Path({str(run.path)!r})).locked('server'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", other], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is writing to this run"), run.locked("server"):
            pass
        process.kill()
    with run.locked("server", wait=5.0):
        pass


def test_where_plain_flower_keeps_its_runs():
    assert str(run_path({"run": "/r", "store": ""}, 5)) == "/r"
    assert str(run_path({"run": "", "store": "/a/prepared"}, 5)) == "/a/runs/flwr-5"
    with pytest.raises(InputError, match="give the absolute path of the prepared trials"):
        run_path({"run": "", "store": ""}, 5)


def test_where_no_run_can_be_made(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError, match="cannot be made"):
        check_free(tmp_path / "file" / "run")
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty")
    check_free(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_a_federation_that_was_changed_is_read_again(make_run):
    run = make_run()
    path = run.path / "federation.toml"
    assert RunFolder(run.path).federation is run.federation
    path.write_text(path.read_text().replace("rounds = 2", "rounds = 3"))
    os.utime(path, ns=(0, 0))
    assert RunFolder(run.path).federation.training.rounds == 3
