"""Whoever does not belong is refused, and the line that its user sees says why."""

import shutil
import socket
import ssl
import threading
import urllib.error
import urllib.request

import pytest
from conftest import mfscsn
from deployment.harness import TINY, tiny_site, wait_for

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


def test_a_key_that_was_taken_off_the_register(one_site):
    d = one_site
    d.join("north")
    (d.server / "sites" / "north.pub").rename(d.folder / "kept.pub")
    wait_for(lambda: "site north is no longer registered" in d.said("server"))
    wait_for(lambda: d.running["north"].poll() is not None, 120)
    assert "does not know this site's key" in d.said("north")

    shutil.copy(d.folder / "kept.pub", d.server / "sites" / "north.pub")
    wait_for(lambda: "Flower takes no key twice" in d.said("server"))
    (d.server / "sites" / "north.pub").unlink()
    for words in (
        ("site", "new-key", d.folder / "north"),
        ("server", "add-site", d.server, d.folder / "north/north.pub"),
    ):
        code, _, err = mfscsn(*words, cwd=d.folder)
        assert code == 0, err
    d.join("north")


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
