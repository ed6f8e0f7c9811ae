"""What is killed comes back: a site with its own layers, a server with its last whole round."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import time

from conftest import LoopGrid, mfscsn
from deployment.harness import family, kill, wait_for, whole_federation

from experiments.prepare import prepare_sites
from federation.contract import load_federation
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.strategy import NO_ANSWER

NAMES = ("north", "south", "west")


def looped(deployment, name, rounds, away=lambda number: ()):
    """The same federation in this process, with sites away in some rounds."""
    federation = prepare_sites(load_federation(whole_federation(deployment, NAMES)), deployment.folder / "store")
    federation = federation.model_copy(update={"training": federation.training.model_copy(update={"rounds": rounds})})
    run = RunFolder.create(deployment.folder / name, federation, deployment.folder / "store", 1)

    class Grid(LoopGrid):
        number = 1

        def get_node_ids(self):
            gone = [NAMES.index(name) for name in away(self.number)]
            return [node for node, k in self.nodes.items() if k not in gone]

        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)  # the strategy asks for nodes while it makes them
            if messages:
                self.number += 1
            return super().send_and_receive(messages, timeout=timeout)

    federate(Grid(run), run)
    return run


def apart(a, b, rounds):
    """The rounds in which two runs' common layers differ, and by how much."""
    return {
        number: most
        for number in range(1, rounds + 1)
        if (most := max(float((a.load_common(number)[k] - v).abs().max()) for k, v in b.load_common(number).items()))
        > 1e-5
    }


def test_a_killed_site_is_left_out_and_joins_again_with_its_own_layers(three_tiny_sites):
    d = three_tiny_sites(rounds=5, local_epochs=60)
    d.join(*NAMES)
    following = d.train_beside()
    wait_for(lambda: "west round 2: trains on" in d.said("west"), 120)
    kill(d.running["west"])  # all of its processes at once, as when the power fails
    assert "west round 2: " not in d.said("west").partition("west round 2: trains on")[2]

    wait_for(lambda: d.last_round() == 2, 150)  # after the heartbeats that did not come
    held = [process for process in family(d.running["south"]) if process.is_running()]
    for process in held:
        process.suspend()  # so that round 3 lasts until the site is back
    try:
        wait_for(lambda: not d.connected()["west"])  # or `join` would take the killed one for the one it started
        d.join("west")
    finally:
        for process in held:
            process.resume()
    _, err = following.communicate(timeout=180)
    assert following.returncode == 0, err

    rows = {(row["round"], row["site"]): row["status"] for row in d.run().history()}
    assert rows["2", "west"] == NO_ANSWER
    assert rows["3", "west"] in ("was not connected", NO_ANSWER)  # as its last heartbeat came before or in round 2
    assert [rows[number, "west"] for number in "145"] == ["ok"] * 3
    assert all(status == "ok" for (_, site), status in rows.items() if site != "west")
    assert "west round 4: trains on, private layers of round 1" in d.said("west")
    loop = looped(d, "loop", 5, away=lambda number: ("west",) if number in (2, 3) else ())
    assert apart(d.run(), loop, 5) == {}


def test_a_killed_server_goes_on_from_its_last_whole_round_as_if_unbroken(three_tiny_sites):
    d = three_tiny_sites(rounds=5, local_epochs=40)
    d.join(*NAMES)
    following = d.train_beside()
    wait_for(lambda: "north round 3: trains on" in d.said("north"), 120)
    below = family(d.running["server"])[1:]
    d.running["server"].kill()  # the command alone: what it started ends by itself
    d.running["server"].wait()
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in below), 30)
    assert len(below) >= 4
    _, err = following.communicate(timeout=60)
    assert (
        following.returncode == 1
        and "the server ended after round 2; start it again" in err
        and len(err.strip().splitlines()) == 1
    ), err
    assert d.last_round() == 2

    code, _, err = d.train("--resume")
    assert code == 2 and "the server does not run; start it with `mfscsn server run" in err
    held = [process for name in NAMES for process in family(d.running[name]) if process.is_running()]
    for process in held:
        process.suspend()
    try:
        d.serve()
        time.sleep(3)
        assert not any(d.connected().values())  # as Flower keeps them they are; a round would begin without them
    finally:
        for process in held:
            process.resume()
    code, out, err = d.train("--resume")
    assert code == 0, out + err
    loop = looped(d, "loop", 5)
    assert apart(d.run(), loop, 5) == {}
    assert (d.run().path / "history.csv").read_bytes() == (loop.path / "history.csv").read_bytes()
    assert len(list((d.server / "runs").iterdir())) == 1


def test_a_command_that_is_cut_off_follows_again_and_a_run_can_be_stopped(three_tiny_sites):
    d = three_tiny_sites(rounds=400)
    d.join(*NAMES)
    following = d.train_beside()
    wait_for(lambda: d.last_round() >= 1, 120)
    os.killpg(following.pid, signal.SIGINT)
    out, _ = following.communicate(timeout=30)
    assert following.returncode == 130 and "what has started goes on" in out
    before = d.last_round()
    wait_for(lambda: d.last_round() > before, 60)

    again = d.train_beside("--resume")
    wait_for(lambda: d.last_round() > before + 2, 60)
    assert again.poll() is None and len(list((d.server / "runs").iterdir())) == 1
    code, out, err = stop(d)
    assert code == 0 and "ended after round" in out, err
    _, err = again.communicate(timeout=60)
    assert again.returncode == 1 and "ended by `mfscsn server stop` after round" in err and "--resume" in err


def stop(d):
    return mfscsn("server", "stop", d.server, cwd=d.folder)


def test_too_few_sites_for_too_long_end_the_run_with_one_line(three_tiny_sites):
    d = three_tiny_sites(rounds=400, contract="min_sites = 2\ndeadline = 8.0")
    d.join("north", "south")
    following = d.train_beside("--wait", 1)
    wait_for(lambda: d.last_round() >= 1, 120)
    d.running["south"].terminate()  # says good-bye, so that no heartbeat is waited for
    _, err = following.communicate(timeout=120)
    assert following.returncode == 1 and len(err.strip().splitlines()) == 1
    assert "1 sites are connected after 8 s, min_sites is 2" in err or "sites answered well, min_sites is 2" in err
    assert d.run().last_round() == d.last_round() >= 1


def test_a_site_does_not_outlive_the_command_not_even_while_it_trains(three_tiny_sites):
    d = three_tiny_sites(rounds=1, local_epochs=4000, contract="min_sites = 1")
    d.join("north")
    following = d.train_beside("--wait", 0)
    wait_for(lambda: "north round 1: trains on" in d.said("north"))
    below = family(d.running["north"])[1:]
    assert len(below) >= 5  # guard, SuperNode, fork server, its tracker, the process that trains
    d.running["north"].kill()
    d.running["north"].wait()
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in below), 30)
    wait_for(lambda: not d.connected()["north"], 30)
    os.killpg(following.pid, signal.SIGKILL)
    following.communicate()
    assert subprocess.run(["pgrep", "-f", str(d.folder / "north")], capture_output=True).stdout == b""


def test_a_database_that_is_locked_for_longer_than_flower_waits_loses_no_site(three_tiny_sites):
    d = three_tiny_sites(rounds=3)
    d.join("north", "south", "west")
    command = d.train_beside()
    wait_for(lambda: d.last_round() >= 1, 120)
    with contextlib.closing(sqlite3.connect(d.server / "flower" / "state.db", isolation_level=None)) as database:
        database.execute("PRAGMA busy_timeout = 60000")
        database.execute("BEGIN IMMEDIATE")
        time.sleep(15.0)
        database.execute("ROLLBACK")
    _, err = command.communicate(timeout=300)
    assert command.returncode == 0, err
    assert all(row["status"] == "ok" for row in d.run().history())
    assert not any("the connection ended" in d.said(name) for name in ("north", "south", "west"))
