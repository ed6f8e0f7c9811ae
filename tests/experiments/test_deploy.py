"""What the coordinator's command says before a run begins, and of its sites."""

from types import SimpleNamespace

import pytest

from data.errors import InputError
from experiments import deploy
from federation.contract import Contract
from federation.deployment.keys import make_site_key
from federation.deployment.server_home import FederationFile, ServerFile, ServerHome
from federation.register import Node, write_nodes


@pytest.fixture
def server(tmp_path, monkeypatch):
    federation = FederationFile(name="tiny", contract=Contract(window=(0.5, 2.5)))
    home = ServerHome.create(tmp_path / "server", ServerFile(hosts=["127.0.0.1"]), federation)
    for name in ("north", "south"):
        make_site_key(name, tmp_path / f"{name}.key", tmp_path / f"{name}.pub")
        home.add_site(tmp_path / f"{name}.pub")
    monkeypatch.setattr(deploy, "running_server", lambda home: SimpleNamespace(alive=lambda: True))
    return home


def test_while_it_waits_it_says_for_whom_and_when_it_ends_who_is_missing(server):
    write_nodes(server.nodes, {7: Node("north", True, "10:00"), 8: Node("south", False, "09:30")})
    steps = []
    deploy.wait_for_sites(server, 1, 0.0, steps.append)  # enough are there
    assert {(step.done, step.total, step.detail) for step in steps} == {(1, 2, "waits for south")}
    with pytest.raises(InputError, match=r"1 of 2 sites .* 2 must be; missing: south \(since 09:30\); nothing was"):
        deploy.wait_for_sites(server, 2, 0.0, steps.append)


def test_a_second_run_does_not_begin_beside_one_that_goes_on(server, monkeypatch):
    write_nodes(server.nodes, {7: Node("north", True, ""), 8: Node("south", True, "")})
    first = deploy.begin(server, 3, 0.0, lambda step: None)
    monkeypatch.setattr(deploy, "_goes_on", lambda run, link: run.path == first.path)
    with pytest.raises(InputError, match="this run goes on; follow it with --resume, or end it with `mfscsn server st"):
        deploy.begin(server, 3, 0.0, lambda step: None)
    assert [run.path for run in server.runs()] == [first.path]
    with (
        pytest.raises(InputError, match="this run goes on; end it with `mfscsn server stop` first"),
        first.locked("server"),
    ):
        deploy.rollback(server, 1)


def test_status_says_who_is_connected_and_when_each_was_heard(server, monkeypatch):
    write_nodes(server.nodes, {7: Node("north", True, "2026-01-01 10:00:00", "2026-01-01 10:05:00")})
    monkeypatch.setattr(ServerHome, "command_port", lambda home: 1)
    monkeypatch.setattr(deploy, "SuperLink", lambda folder, port: SimpleNamespace(alive=lambda: True))
    sites = deploy.status(server)["sites"]
    assert sites["north"] == {"connected": True, "since": "2026-01-01 10:00:00", "heard": "2026-01-01 10:05:00"}
    assert sites["south"] == {"connected": False, "since": None, "heard": None}
