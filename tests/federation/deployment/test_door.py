"""Who knocks at the sites' door: strangers that send much, or nothing, and a registered site that would command."""

import asyncio
import contextlib
import datetime
import socket
import ssl
import threading
import time
from base64 import b64encode
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from federation.deployment import door as door_module
from federation.deployment.door import Door, connections_of
from federation.deployment.keys import make_authority, make_server_certificate, make_site_key
from federation.deployment.server_home import FederationFile, ServerFile, ServerHome
from federation.deployment.server_link import _Register, _was_sent

NODE, OTHER, SERVER = 77, 78, 1


class Site:
    """A key, and what is signed with it."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.public = public_key_to_bytes(self.key.public_key())

    def headers(self, at=0.0):
        now = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=at)).isoformat()
        return {
            "flwr-public-key": b64encode(self.public).decode(),
            "flwr-timestamp": now,
            "flwr-signature": b64encode(sign_message(self.key, now.encode())).decode(),
            "content-type": "application/protobuf",
        }


@pytest.fixture
def served(tmp_path):
    """A door over TLS, before an app that writes down what it is given."""
    seen = []

    async def app(scope, receive, send):
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        seen.append((scope["path"], body))
        status = 500 if scope["path"].endswith("get-run") else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    make_authority("test", tmp_path / "a.pem", tmp_path / "a.key")
    make_server_certificate(
        ["127.0.0.1"], tmp_path / "a.pem", tmp_path / "a.key", tmp_path / "s.pem", tmp_path / "s.key"
    )
    door = Door(app, lambda message, node: (message, node) == ("asked", NODE))
    config = uvicorn.Config(
        door, host="127.0.0.1", port=0, http=connections_of(door), ws="none", lifespan="off", log_level="critical",
        ssl_certfile=tmp_path / "s.pem", ssl_keyfile=str(tmp_path / "s.key"),
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    door.port = server.servers[0].sockets[0].getsockname()[1]
    door.seen, door.site, door.authority = seen, Site(), str(tmp_path / "a.pem")
    door.nodes = {door.site.public: NODE}
    yield door
    server.should_exit = True
    thread.join(timeout=30)


def post(door, kind, headers, content=b""):
    with httpx.Client(verify=ssl.create_default_context(cafile=door.authority), timeout=30) as client:
        return client.post(f"https://127.0.0.1:{door.port}/v1/fleet/{kind}", content=content, headers=headers)


def reply(to="asked", source=NODE, destination=SERVER):
    metadata = Metadata(run_id=1, src_node_id=source, dst_node_id=destination, reply_to_message_id=to)
    request = PushMessagesRequest(messages_list=[Message(metadata=metadata)], message_object_trees=[ObjectTree()])
    return request.SerializeToString()


def test_a_registered_site_is_let_in_and_its_body_comes_whole(served):
    body = PullMessagesRequest().SerializeToString() + b"x" * 1000
    assert post(served, "pull-messages", served.site.headers(), body).status_code == 200
    assert served.seen == [("/v1/fleet/pull-messages", body)]
    assert served.heard[NODE] == pytest.approx(time.time(), abs=60)
    large = b"y" * (door_module.SHORT_BYTES + 1)
    assert post(served, "push-object", served.site.headers(), large).status_code == 200


@pytest.mark.parametrize("what", ["no header", "another key", "old", "ahead", "another signature", "nonsense"])
def test_a_request_that_no_registered_key_has_signed_is_not_read(served, what):
    headers = {
        "no header": {},
        "another key": Site().headers(),
        "old": served.site.headers(-400),
        "ahead": served.site.headers(1200),
        "another signature": served.site.headers() | {"flwr-signature": Site().headers()["flwr-signature"]},
        "nonsense": served.site.headers() | {"flwr-public-key": "%%%"},
    }[what]
    answer = post(served, "pull-messages", headers)
    assert answer.status_code == 401 and "date" in answer.headers  # with which a site finds that its clock is wrong
    # Nor is a body that would fill the memory: the connection ends while it comes
    plain = socket.create_connection(("127.0.0.1", served.port))
    with ssl.create_default_context(cafile=served.authority).wrap_socket(plain, server_hostname="127.0.0.1") as wire:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\n{lines}content-length: 60000000\r\n\r\n"
        wire.sendall(head.encode())
        with pytest.raises(OSError):
            for _ in range(200):
                wire.send(b"z" * 65536)
                time.sleep(0.05)
    assert served.seen == []


def test_a_body_is_no_longer_than_its_kind_needs(served):
    answer = post(served, "pull-messages", served.site.headers(), b"x" * (door_module.SHORT_BYTES + 1))
    assert answer.status_code == 413 and served.seen == []

    def parts():  # without a length before it
        for _ in range(100):
            yield b"x" * 2**16

    with contextlib.suppress(httpx.WriteError):
        assert post(served, "pull-messages", served.site.headers(), parts()).status_code == 413
    assert served.seen == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (reply(), 200),
        (reply(to=""), 403),  # an instruction
        (reply(to="", source=SERVER, destination=OTHER), 403),  # an instruction in the server's name
        (reply(to="asked of another"), 403),
        (reply(source=OTHER), 403),
        (reply(destination=OTHER), 403),
        (PushMessagesRequest().SerializeToString(), 400),
        (b"\xff\xff", 400),
    ],
)
def test_a_registered_site_can_answer_what_it_was_asked_and_nothing_else(served, body, status):
    assert post(served, "push-messages", served.site.headers(), body).status_code == status
    assert len(served.seen) == (status == 200)


@pytest.mark.parametrize("path", ["register-node", "unregister-node", "../control/list-nodes", "x"])
def test_what_is_not_for_sites_is_not_there(served, path):
    assert post(served, path, served.site.headers()).status_code == 404 and served.seen == []


def test_an_internal_error_is_come_again_for_a_site(served):
    assert post(served, "get-run", served.site.headers()).status_code == 503


def test_half_sent_requests_do_not_keep_a_site_out(served, monkeypatch):
    monkeypatch.setattr(door_module, "STRANGER_SECONDS", 3.0)
    context = ssl.create_default_context(cafile=served.authority)
    half = []
    for _ in range(270):
        plain = socket.create_connection(("127.0.0.1", served.port))
        wire = context.wrap_socket(plain, server_hostname="127.0.0.1")
        wire.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\n")
        half.append(wire)
    assert len(served.strangers) <= door_module.STRANGERS_OF_ADDRESS
    assert post(served, "pull-messages", served.site.headers()).status_code == 200
    end = time.monotonic() + 60
    while served.strangers:  # none of them stays
        assert time.monotonic() < end
        time.sleep(0.1)
    for wire in half:
        wire.close()


def test_a_body_that_never_comes_whole_ends(monkeypatch):
    monkeypatch.setattr(door_module, "BODY_SECONDS", 0.2)

    async def receive():
        await asyncio.sleep(60)

    with pytest.raises(door_module.Refused) as caught:
        asyncio.run(door_module._whole(receive, 100))
    assert caught.value.status == 408


class Register:
    """Flower's state, as far as the register uses it."""

    def __init__(self):
        self.nodes = {}

    def get_node_info(self, owner_aids):
        return list(self.nodes.values())

    def create_node(self, aid, name, key, interval):
        assert key not in self.nodes, "Flower takes no key twice"
        self.nodes[key] = SimpleNamespace(node_id=len(self.nodes) + 1, public_key=key, status="online")

    def deactivate_node(self, node_id):
        next(node for node in self.nodes.values() if node.node_id == node_id).status = "offline"


def test_a_key_goes_by_command_alone(tmp_path):
    """`sites/` was away for ten seconds, and every hospital's key was revoked for good."""
    made = ServerHome.create(tmp_path / "server", ServerFile(hosts=["127.0.0.1"]), FederationFile(name="tiny"))
    make_site_key("north", tmp_path / "site.key", tmp_path / "north.pub")
    made.add_site(tmp_path / "north.pub")
    said, door, state = [], Door(None, lambda message, node: False), Register()
    register = _Register(made, state, door, said.append)
    register.update()
    (key,) = door.nodes
    (made.path / "sites").rename(made.path / "away")
    register.update()
    register.update()
    assert key in door.nodes and len([line for line in said if "it stays registered" in line]) == 1
    again = _Register(made, state, door, said.append)  # a restart meanwhile
    again.update()
    assert key in door.nodes
    (made.path / "away").rename(made.path / "sites")
    (made.path / "sites" / "north.pub").write_bytes(b"no key")
    register.update()
    register.update()
    assert key in door.nodes and len([line for line in said if "north.pub: " in line]) == 1
    (made.path / "sites" / "north.pub").write_bytes((tmp_path / "north.pub").read_bytes())
    made.remove_site("north")
    register.update()
    assert not door.nodes and state.nodes[key].status == "offline"
    made.add_site(made.path / "removed" / "north-1.pub", "north")
    register.update()
    assert list(door.nodes) == [key]  # as it was, without another key

    for damaged in ("unreadable", "away"):  # taken off though its key cannot be read
        path = made.path / "sites" / "north.pub"
        path.write_bytes(b"no key") if damaged == "unreadable" else path.unlink()
        register.update()
        assert key in door.nodes
        made.remove_site("north")
        register.update()
        assert not door.nodes, damaged
        made.add_site(tmp_path / "north.pub")
        register.update()
        assert list(door.nodes) == [key]


def test_only_whom_a_message_was_sent_to_may_answer_it():
    node = 2**63 + 5  # Flower keeps it as a signed number
    kept = {"asked": {"dst_node_id": node - 2**64}}
    state = SimpleNamespace(get_valid_message_ins=kept.get)
    assert _was_sent(state, "asked", node)
    assert not _was_sent(state, "asked", OTHER) and not _was_sent(state, "unknown", node)


def test_strangers_of_many_addresses_are_capped_too(monkeypatch):
    monkeypatch.setattr(door_module, "STRANGERS", 4)
    door, ended = Door(None, lambda message, node: False), []
    for k in range(10):
        client = (f"10.0.0.{k}", 1000 + k)
        transport = SimpleNamespace(abort=lambda client=client: ended.append(client))
        door.enters(SimpleNamespace(client=client, transport=transport))
    assert len(door.strangers) == 4 and ended == [(f"10.0.0.{k}", 1000 + k) for k in range(6)]  # the oldest
