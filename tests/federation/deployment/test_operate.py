"""What an operator does: backup and restore, renewal, rollback, monitoring; a site's files are its owner's alone."""

import json
import os
import sqlite3
import stat
from contextlib import closing

import pytest
import tomli_w
import torch
from conftest import mfscsn, tiny_toml
from prometheus_client.parser import text_string_to_metric_families

from data.errors import InputError
from experiments import deploy
from federation.contract import Contract
from federation.deployment.keys import days_left, make_site_key, read_certificate
from federation.deployment.metrics import server_metrics
from federation.deployment.server_home import FederationFile, ServerFile, ServerHome
from federation.register import Node, write_nodes
from federation.run_folder import RunFolder
from federation.site_network import server_network
from federation.tables import read_toml


@pytest.fixture
def server(tmp_path):
    federation = FederationFile(name="tiny", contract=Contract(window=(0.5, 2.5)))
    home = ServerHome.create(tmp_path / "server", ServerFile(hosts=["127.0.0.1"]), federation)
    make_site_key("north", tmp_path / "site.key", tmp_path / "north.pub")
    home.add_site(tmp_path / "north.pub")
    return home


@pytest.fixture
def run(server):
    """Three rounds, as the strategy keeps them."""
    made = RunFolder.create(server.path / "runs" / "tiny-1", server.federation_of_sites(5), server.path / "prepared", 1)
    layers = server_network(made.federation).common_state()
    for number in (1, 2, 3):
        row = {"round": number, "site": "north", "status": "ok", "accuracy": 0.5}
        made.finish_round(number, {k: v + number for k, v in layers.items()}, {}, [row], [])
    return made


def answer(*words):
    code, out, err = mfscsn(*words, cwd="/")
    assert code == 0, out + err
    return out


def contents(run):
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_backup_is_put_back_as_it_was(server, run, tmp_path):
    server.flower.mkdir()
    with closing(sqlite3.connect(server.flower / "state.db")) as database:  # open, as while the server runs
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE node (name)")
        database.execute("INSERT INTO node VALUES ('north')")
        database.commit()
        answer("server", "backup", server.path, "--to", tmp_path / "b.tar.gz")
    assert stat.S_IMODE((tmp_path / "b.tar.gz").stat().st_mode) == 0o600
    out = answer("server", "restore", tmp_path / "b.tar.gz", tmp_path / "again")
    assert "1 sites registered" in out and "round 3" in out
    again = ServerHome(tmp_path / "again")
    for path in server.path.rglob("*"):
        if path.is_file() and "state.db" not in path.name:
            assert (again.path / path.relative_to(server.path)).read_bytes() == path.read_bytes(), path
    assert stat.S_IMODE((again.path / "server.key").stat().st_mode) == 0o600
    with closing(sqlite3.connect(again.flower / "state.db")) as database:
        assert database.execute("SELECT name FROM node").fetchall() == [("north",)]

    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "b.tar.gz").read_bytes()[:-3000])
    for words, why in (
        (("restore", tmp_path / "cut.tar.gz", tmp_path / "new"), "cannot be read as a server's backup"),
        (("backup", server.path, "--to", tmp_path / "b.tar.gz"), "a backup is never written over"),
        (("restore", tmp_path / "b.tar.gz", again.path), "name another folder"),
        (("restore", tmp_path / "north.pub", tmp_path / "new"), "cannot be read as a server's backup"),
    ):
        code, _, err = mfscsn("server", *words, cwd=server.path)
        assert code == 2 and why in err and len(err.strip().splitlines()) == 1, err
    assert not list(tmp_path.glob("new*"))  # nothing half restored is left


def test_a_certificate_is_renewed_and_the_invitation_stays(server):
    before, invited = read_certificate(server.path / "server.pem"), (server.path / "invitation.toml").read_bytes()
    assert "the new certificate lasts" in answer("server", "renew", server.path)
    after = read_certificate(server.path / "server.pem")
    assert after.serial_number != before.serial_number and days_left(server.path / "server.pem") > 300
    assert not ServerHome(server.path).ready() and (server.path / "invitation.toml").read_bytes() == invited
    (server.path / "authority.key").unlink()
    code, _, err = mfscsn("server", "renew", server.path, cwd=server.path)
    assert code == 2 and "authority.key: not here; put another server.pem" in err


def test_a_run_goes_on_from_an_earlier_round_and_the_old_one_stays(server, run):
    before = contents(run)
    assert "a new run begins after round 2" in answer("server", "rollback", server.path, "--round", 2)
    began = ServerHome(server.path).runs()[-1]
    assert began.run_id != run.run_id and began.last_round() == 2 and len(began.history()) == 2
    assert all(torch.equal(v, run.load_common(2)[k]) for k, v in began.load_common(2).items())
    assert before == contents(run)
    for words, why in ((("--round", 9), "no round 9; there are 1 to"), (("--round", 1, "--run", "x"), "no run 'x'")):
        code, _, err = mfscsn("server", "rollback", server.path, *words, cwd=server.path)
        assert code == 2 and why in err


def test_a_run_of_another_version_is_not_resumed(server, run):
    path = run.path / "environment.json"
    environment = json.loads(path.read_text())
    environment["packages"]["mfscsn"] = "0.0.1"
    path.write_text(json.dumps(environment))
    with pytest.raises(InputError, match=r"begun with mfscsn 0.0.1, this is .*; end it with 0.0.1, or begin a new run"):
        deploy.reopen(server, 0.0, print)


def test_a_monitor_reads_sites_and_rounds(server, run):
    write_nodes(server.nodes, {7: Node("north", True, "2026-01-01 00:00:00", "2026-01-01 00:00:10")})
    found = {
        sample.name: (sample.labels, sample.value)
        for family in text_string_to_metric_families(server_metrics(server, {7: 123}).decode())
        for sample in family.samples
    }
    assert found["mfscsn_site_connected"] == ({"site": "north"}, 1.0)
    assert found["mfscsn_site_received_bytes"] == ({"site": "north"}, 123.0)
    assert found["mfscsn_run_round"] == ({"run": "tiny-1"}, 3.0) and found["mfscsn_run_rounds"][1] == 5.0
    assert found["mfscsn_certificate_days"][1] > 300 and found["mfscsn_run_failed"][1] == 0.0


def test_a_sites_files_are_its_owners_alone_whatever_the_umask(server, tmp_path):
    before = os.umask(0)
    try:
        home = tmp_path / "north"
        answer("site", "init", home, "--invitation", server.path / "invitation.toml", "--name", "north")
        (tmp_path / "tiny.toml").write_text(tiny_toml())
        north = read_toml(tmp_path / "tiny.toml")["site"][0]
        (home / "site.toml").write_text(tomli_w.dumps({"site": [north]}))
        answer("site", "check", home, "--offline")
        assert "mfscsn_site_runs 0.0" in answer("site", "metrics", home)
        assert os.umask(0) == 0  # ours is as it was
    finally:
        os.umask(before)
    files = [path for path in home.rglob("*") if path.is_file() and path.name != "site.toml"]
    assert len(files) > 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} <= {0o600, 0o400}


@pytest.mark.parametrize(("host", "listen"), [("::1", "::"), ("127.0.0.1", "0.0.0.0"), ("example.org", "0.0.0.0")])
def test_a_server_listens_where_its_address_is(tmp_path, host, listen):
    answer("server", "init", tmp_path / "made", "--host", host)
    assert read_toml(tmp_path / "made" / "server.toml")["listen"] == listen
