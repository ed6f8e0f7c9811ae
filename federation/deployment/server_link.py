"""The server of a deployment: Flower's SuperLink, with one door for sites and another for this machine's commands.

Run as a module, below a guard, because Flower's processes for a run would outlive a SuperLink that was killed.

Flower serves sites, commands and its own apps on one port, and asks commands for no proof of who sends them: with
that port open, anyone could register a key of their own. Here sites get a port over TLS behind
`federation.deployment.door`, where every request is signed with a registered key; commands get a port of 127.0.0.1.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import uvicorn
from fastapi.responses import PlainTextResponse

from data.errors import InputError
from data.files import replaced
from federation.deployment.door import Door, connections_of
from federation.deployment.keys import read_public_key
from federation.deployment.metrics import server_metrics
from federation.deployment.server_home import ServerHome
from federation.events import event
from federation.flower_internals.common import HEARTBEAT_DEFAULT_INTERVAL, public_key_to_bytes
from federation.flower_internals.server import (
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    TRANSPORT_TYPE_GRPC_RERE,
    NodeStatus,
    NoOpControlAuthnPlugin,
    SuperLinkLifespan,
    SuperLinkLifespanConfig,
    create_app,
    int64_to_uint64,
    sql_mixin,
)
from federation.guard import free_port
from federation.register import Node, write_nodes

REGISTER_SECONDS, HEARD_SECONDS = 1.0, 5.0
DATABASE_SECONDS = 60.0  # that a question waits for Flower's database, in place of five
LOG_BYTES, LOGS = 5 * 2**20, 5


def serve(home: ServerHome, say: Callable[[str], object]) -> None:
    """Serve until the process is told to end; Flower's own log goes to ``flower/superlink.log``.

    Parameters
    ----------
    home : ServerHome
    say : callable
        Told one line an event: what listens where, which site came or went.

    Raises
    ------
    InputError
        When a port is taken.
    """
    _log_to(home.flower / "superlink.log")
    pragmas: Any = sql_mixin
    pragmas.SQLITE_PRAGMAS = (*pragmas.SQLITE_PRAGMAS, ("busy_timeout", str(int(1000 * DATABASE_SECONDS))))
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=home.server.command_port or free_port(),
        insecure=True,
        certificates=None,
        superexec_auth_secret=None,
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(home.flower / "state.db"),
        isolation="subprocess",
        runtime_dependency_install=False,
    )
    app = create_app(config, SuperLinkLifespan)
    door = Door(app, lambda message, node: _was_sent(app.state.linkstate_factory.state(), message, node))
    app.add_api_route("/metrics", lambda: PlainTextResponse(server_metrics(home, door.n_bytes)))
    quiet: dict[str, Any] = {"log_config": None, "access_log": False}
    commands = uvicorn.Server(uvicorn.Config(app, host=config.host, port=config.port, **quiet))
    sites = uvicorn.Server(
        uvicorn.Config(
            door,
            host=home.server.listen,
            port=home.server.port,
            ssl_certfile=home.path / "server.pem",
            ssl_keyfile=str(home.path / "server.key"),
            lifespan="off",
            http=connections_of(door),
            ws="none",
            **quiet,
        )
    )
    ended = threading.Event()
    listens = threading.Thread(target=_run, args=(sites, commands, ended), daemon=True)

    def begin() -> None:
        while not commands.started and not ended.is_set():
            time.sleep(0.05)
        if ended.is_set():
            return
        register = _Register(home, app.state.linkstate_factory.state(), door, say)
        register.update()  # before anybody may knock
        listens.start()
        while not sites.started and listens.is_alive():
            time.sleep(0.05)
        if sites.started:
            with replaced(home.flower / "port.json") as out:
                out.write(json.dumps(config.port).encode())
            say(f"listens to sites on {home.server.listen}:{home.server.port}, over TLS")
            register.keep(ended)

    threading.Thread(target=begin, daemon=True).start()
    try:
        commands.run()
    finally:
        listened = sites.started
        ended.set()
        sites.should_exit = True
        if listens.ident is not None:
            listens.join(timeout=10)
    if not commands.started:
        raise InputError(f"Flower's SuperLink did not start; {home.flower / 'superlink.log'} says why")
    if not listened:
        raise InputError(
            f"cannot listen on {home.server.listen}:{home.server.port}: the port is taken, or not this machine's;"
            f" change listen or port in {home.path / 'server.toml'}; {home.flower / 'superlink.log'} says more"
        )


def _run(sites: uvicorn.Server, commands: uvicorn.Server, ended: threading.Event) -> None:
    """Run the sites' door in a thread of its own; without it there is no server."""
    try:
        sites.run()
    except SystemExit:  # uvicorn's way to say that the port is taken
        pass
    finally:
        ended.set()
        commands.should_exit = True


def _was_sent(state: Any, message: str, node: int) -> bool:
    """Return whether a message was sent to a node, and waits for its answer."""
    sent = state.get_valid_message_ins(message)
    return sent is not None and int64_to_uint64(sent["dst_node_id"]) == node


class _Register:
    """Makes Flower's register and the door's equal to the folder of keys, and writes down which site is there.

    A key goes by command alone (``removed/``), and the door refuses it then; Flower keeps it, for it takes none twice.
    """

    def __init__(self, home: ServerHome, state: Any, door: Door, say: Callable[[str], object]):
        self.home, self.state, self.door, self.say = home, state, door, say
        self.nodes = home.nodes_before()
        self.written = 0.0
        self.missing: set[str] = set()
        self.told: set[str] = set()

    def keep(self, ended: threading.Event) -> None:
        """Bring it up to date as long as the server runs."""
        while not ended.wait(REGISTER_SECONDS):
            try:
                self.update()
            except Exception:
                logging.getLogger("flwr").exception("the register could not be brought up to date")

    def update(self) -> None:
        """Bring it up to date once."""
        names = _keys(self.home.sites(), self._say_once)
        removed = _keys(self.home.removed()).keys() - names.keys()
        known = {info.public_key: info for info in self._infos()}
        for key in names.keys() - known.keys():
            self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL)
        infos = {info.public_key: info for info in self._infos()}
        kept = {
            key: names[key] if key in names else self.nodes[info.node_id].site
            for key, info in infos.items()
            if key in names or (key not in removed and self._stays(info.node_id))
        }
        for key in infos.keys() - kept.keys():
            if infos[key].status == NodeStatus.ONLINE:
                self.state.deactivate_node(infos[key].node_id)
        for name in sorted(set(kept.values()) - set(names.values()) - self.missing):
            self.say(
                f"site {name}: its key is not in {self.home.path / 'sites'}, or cannot be read; it stays registered:"
                f" put it back, or take the site off with `mfscsn server remove-site`"
            )
        self.missing = set(kept.values()) - set(names.values())
        self.door.nodes = {key: infos[key].node_id for key in kept}

        nodes = {infos[key].node_id: self._node(infos[key], name) for key, name in kept.items()}
        for node_id in self.nodes.keys() - nodes.keys():
            self.say(f"site {self.nodes[node_id].site} is no longer registered")
            self.home.record("removed", site=self.nodes[node_id].site)
        alike = {n: replace(node, heard="") for n, node in nodes.items()} == {
            n: replace(node, heard="") for n, node in self.nodes.items()
        }
        if not alike or not self.home.nodes.exists() or time.monotonic() > self.written + HEARD_SECONDS:
            write_nodes(self.home.nodes, nodes)
            self.written = time.monotonic()
        self.nodes = nodes

    def _stays(self, node: int) -> bool:
        """Return whether a node without a key in the register is one that nobody took off."""
        return node in self.nodes and not self.home.removed_without_key(self.nodes[node].site)

    def _say_once(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            self.say(line)

    def _node(self, info: Any, site: str) -> Node:
        last, at = self.nodes.get(info.node_id), self.door.heard.get(info.node_id)
        online = info.status == NodeStatus.ONLINE and at is not None  # what a server before this one heard is no sign
        heard = _moment(at) if at is not None else last.heard if last is not None else ""
        if last is not None and last.online == online:
            return replace(last, site=site, heard=heard)
        what = "connected" if online else "registered" if last is None else "gone"
        self.say(f"site {site} is {what}")
        self.home.record(what, site=site)
        return Node(site, online, _moment(time.time()), heard)

    def _infos(self) -> list[Any]:
        infos = self.state.get_node_info(owner_aids=[NOOP_FLWR_AID])
        return [info for info in infos if info.status != NodeStatus.UNREGISTERED]


def _keys(files: Mapping[str, Path], fault: Callable[[str], object] = lambda line: None) -> dict[bytes, str]:
    """Read public keys; `fault` is told of those that cannot be read."""
    keys = {}
    for name, path in files.items():
        try:
            keys[public_key_to_bytes(read_public_key(path)[0])] = name
        except InputError as error:
            fault(str(error))
    return keys


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _log_to(path: Path) -> None:
    """Send what Flower and uvicorn log to a file instead of the terminal; of old ones, a few are kept."""
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOGS)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("flwr", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = ([handler] if name != "uvicorn.error" else []), name == "uvicorn.error"
        logger.setLevel(logging.INFO)


if __name__ == "__main__":
    try:
        serve(ServerHome(Path(sys.argv[1])), event)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
