"""Whoever does not belong is refused, and the line that its user sees says why."""

import json
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request

import httpx
import pytest
from conftest import mfscsn
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from deployment.harness import TINY, tiny_site, wait_for
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as FlowerMessage
from flwr.proto.message_pb2 import Metadata, ObjectTree
from flwr.proto.node_pb2 import Node as FlowerNode
from flwr.proto.recorddict_pb2 import RecordDict as FlowerRecords
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from experiments.deploy import running_server
from federation.deployment.server_home import ServerHome
from federation.run_folder import RunFolder
from federation.tables import read_toml

FEDERATION = 'name = "tiny"\n[contract]\nwindow = [0.5, 2.5]\nmin_sites = 1\n[training]\nrounds = 1\nbatch_size = 8\n'

FOREIGN_APP = """\
from pathlib import Path

Path({marker!r}).write_text("ran")

from federation import client_app, server_app

client = client_app.app
server = server_app.app
"""


@pytest.fixture
def one_site(deployment):
    deployment.begin(FEDERATION)
    deployment.add_site("north", tiny_site("simulated:clinic"))
    deployment.serve()
    return deployment


@pytest.fixture
def two_sites(deployment):
    """Not yet served: a test spoils a file of the second one first."""
    deployment.begin(FEDERATION)
    for name, source in zip(("north", "south"), TINY, strict=False):
        deployment.add_site(name, tiny_site(source))
    return deployment


def site_run(d, name, code=2):
    found, _out, err = mfscsn("site", "run", d.folder / name, cwd=d.folder)
    assert found == code and "Traceback" not in err and len(err.strip().splitlines()) == 1, err
    return err


def test_a_key_that_is_not_registered(one_site):
    d = one_site
    d.add_site("south", tiny_site("simulated:laboratory"), register=False)
    err = site_run(d, "south")
    assert "site 'south'" in err and "does not know this site's key; send south.pub to the coordinator" in err
    code, _, err = mfscsn("site", "check", d.folder / "south", cwd=d.folder)
    assert code == 2 and "does not know this site's key" in err
    code, _out, err = mfscsn("server", "add-site", d.server, d.folder / "south" / "south.pub", cwd=d.folder)
    assert code == 0
    d.join("south")


def test_training_without_its_sites_starts_nothing_and_says_who_is_missing(one_site):
    d = one_site
    code, _, err = d.train("--wait", 1)
    assert code == 2 and "0 of 1 sites are connected after 1 s, 1 must be; missing: north (since 20" in err, err
    assert ("nothing was started" in err and not (d.server / "runs").exists()) or not any((d.server / "runs").iterdir())
    d.join("north")
    d.running["north"].terminate()
    wait_for(lambda: not d.connected()["north"])
    code, _, err = d.train("--wait", 0)
    assert code == 2 and "missing: north (since 20" in err, err


def test_a_key_goes_by_command_alone_and_comes_back(one_site):
    d = one_site
    d.join("north")
    (d.server / "sites").rename(d.server / "away")
    wait_for(lambda: "site north: its key is not in" in d.said("server"))
    time.sleep(3.0)
    assert d.connected()["north"] and d.running["north"].poll() is None
    (d.server / "away").rename(d.server / "sites")

    kept = (d.server / "sites" / "north.pub").read_bytes()
    (d.server / "sites" / "north.pub").write_bytes(b"no key")
    time.sleep(3.0)
    assert d.connected()["north"]
    (d.server / "sites" / "north.pub").write_bytes(kept)

    code, out, err = mfscsn("server", "remove-site", d.server, "north", cwd=d.folder)
    assert code == 0 and "site 'north' is no longer registered" in out, err
    wait_for(lambda: "site north is no longer registered" in d.said("server"))
    wait_for(lambda: d.running["north"].poll() is not None, 120)
    assert "does not know this site's key" in d.said("north")

    words = ("server", "add-site", d.server, d.server / "removed" / "north-1.pub", "--name", "north")
    code, _, err = mfscsn(*words, cwd=d.folder)
    assert code == 0, err
    d.join("north")  # with the key that it had
    trail = [json.loads(line) for line in (d.server / "audit.jsonl").read_text().splitlines()]
    assert [line["event"] for line in trail if line["site"] == "north"][:3] == ["registered", "connected", "removed"]


def test_a_registered_site_commands_no_other(two_sites):
    """The attack: an instruction to train an invented run, in the server's name, sent with the key of a site."""
    d = two_sites
    d.serve()
    d.join("north", "south")
    nodes = {node["site"]: int(n) for n, node in json.loads((d.server / "nodes.json").read_text()).items()}
    d.running["south"].terminate()
    d.running["south"].wait()
    wait_for(lambda: not d.connected()["south"])
    run = d.train_beside("--wait", 0)
    wait_for(lambda: "north round 1: trains on" in d.said("north"), 120)  # of a run that goes on, Flower takes them
    (started,) = d.server.glob("runs/*/flower-run.txt")
    run_id = int(started.read_text())
    private = load_ssh_private_key((d.folder / "south" / "site.key").read_bytes(), None)
    client = FleetHttpClient.from_server_address(
        f"127.0.0.1:{d.port}", False, (d.server / "authority.pem").read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(private, private.public_key()),
        ],
    )  # fmt: skip
    for source in (nodes["south"], 1):
        about = Metadata(
            run_id=run_id, message_id="a" * 64, src_node_id=source, dst_node_id=nodes["north"], message_type="train",
            ttl=3600, created_at=time.time(),
        )  # fmt: skip
        request = PushMessagesRequest(
            node=FlowerNode(node_id=nodes["south"]),
            messages_list=[FlowerMessage(metadata=about, content=FlowerRecords())],
            message_object_trees=[ObjectTree(object_id="a" * 64)],
        )
        with pytest.raises(httpx.HTTPStatusError) as caught:
            client.PushMessages(request)
        assert caught.value.response.status_code == 403
    _, err = run.communicate(timeout=300)
    assert run.returncode == 0, err


def test_a_certificate_of_another_authority(one_site):
    d = one_site
    other = d.folder / "other"
    mfscsn("server", "init", other, "--host", "127.0.0.1", cwd=d.folder)
    path = d.folder / "north" / "invitation.toml"
    ours, theirs = (read_toml(p)["certificate"] for p in (path, other / "invitation.toml"))
    path.write_text(path.read_text().replace(ours, theirs))
    err = site_run(d, "north")
    assert "shows a certificate that does not fit the invitation" in err and "ask the coordinator" in err


def test_plain_text_in_both_directions(one_site):
    d = one_site
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://127.0.0.1:{d.port}/health", timeout=5)

    plain = socket.create_server(("127.0.0.1", 0))  # a server that answers in plain text
    path = d.folder / "north" / "invitation.toml"
    path.write_text(path.read_text().replace(f":{d.port}", f":{plain.getsockname()[1]}"))

    def answer():
        while True:
            connection, _ = plain.accept()
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

    threading.Thread(target=answer, daemon=True).start()
    assert "does not speak TLS" in site_run(d, "north")


def test_the_door_for_sites_takes_no_commands(one_site):
    """On this port anyone may knock: commands and the apps' own traffic are not for them."""
    d = one_site
    context = ssl.create_default_context(cafile=d.server / "authority.pem")
    port = ServerHome(d.server).command_port()
    for path in ("control/list-nodes", "control/register-node", "control/start-run", "runtime/acquire-task"):
        request = {"data": b"", "headers": {"content-type": "application/protobuf"}, "method": "POST"}
        with pytest.raises(urllib.error.HTTPError) as caught:
            open_url(urllib.request.Request(f"https://127.0.0.1:{d.port}/v1/{path}", **request), context)
        assert caught.value.code == 404, path
    inside = urllib.request.Request(f"http://127.0.0.1:{port}/v1/control/list-nodes", **request)
    assert open_url(inside).status == 200  # it is there: only the door keeps it in
    assert open_url(f"https://127.0.0.1:{d.port}/health", context).status == 200


def open_url(request, context=None):
    return urllib.request.urlopen(request, context=context, timeout=10)


def test_an_app_that_was_not_approved_runs_no_line_at_a_site(one_site, monkeypatch):
    d = one_site
    d.join("north")
    marker = d.folder / "marker"
    home = ServerHome(d.server)
    run = RunFolder.create(d.server / "runs" / "foreign", home.federation_of_sites(), d.folder / "no", 1)
    link = running_server(home)
    with monkeypatch.context() as patch:
        patch.setattr("federation.deployment.app_bundle.APP_MODULE", FOREIGN_APP.format(marker=str(marker)))
        link.start_run({"run": str(run.path), "store": str(run.store), "nodes": str(home.nodes)})
    wait_for(lambda: run.failure() is not None, 90)
    assert "north: runs other code than the server's; install the same version at both ends" in run.failure()
    assert "refused: the server asks to run app bundle" in d.said("north")
    assert marker.read_text() == "ran"  # at the server, whose code it is; so it would have run at the site
    marker.unlink()
    code, _out, err = d.train()
    assert code == 0 and not marker.exists(), err  # the approved one still runs
    assert not list((d.folder / "north" / "flower").rglob("mfscsn_app.py"))  # no bundle was ever unpacked there


def test_a_site_with_another_contract_is_named(two_sites):
    d = two_sites
    path = d.folder / "south" / "invitation.toml"
    path.write_text(path.read_text().replace("width = 50", "width = 20"))
    d.serve()
    d.join("north", "south")
    code, _out, err = d.train()
    assert code == 0, err
    rows = {row["site"]: row["status"] for row in d.run().history()}
    assert rows == {"north": "ok", "south": "holds another contract; send it the invitation again"}
    assert "refused, the server holds another contract" in d.said("south")


def test_a_site_that_takes_anothers_name_is_left_out(two_sites):
    d = two_sites
    path = d.folder / "south" / "site.toml"
    path.write_text(path.read_text().replace('name = "south"', 'name = "north"'))
    key = d.folder / "south" / "south.pub"
    (d.folder / "south" / "north.pub").write_text(key.read_text().replace(" south", " north"))
    d.serve()
    d.join("north", "south")
    code, _, err = d.train()
    assert code == 0, err
    rows = {row["site"]: row["status"] for row in d.run().history()}
    assert rows == {"north": "ok", "south": "gives itself another name than its key is registered for"}
