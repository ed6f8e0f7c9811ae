"""The server of a deployment: Flower's SuperLink, with one door for sites and another for this machine's commands.

Run as a module, below a guard, because Flower's processes for a run would outlive a SuperLink that was killed.

Flower 1.41 serves sites, commands and its own apps on one port, and asks commands for no proof of who sends them: with
that port open, anyone could register a key of their own. Here sites get a port over TLS that answers nothing but
Flower's Fleet API, where every request is signed with a registered key; commands get a port of 127.0.0.1.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TRANSPORT_TYPE_GRPC_RERE
from flwr.supercore.constant import NodeStatus
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from data.errors import InputError
from data.files import replaced
from federation.deployment.keys import read_public_key
from federation.deployment.server_home import ServerHome
from federation.events import event
from federation.guard import free_port
from federation.register import Node, write_nodes

REGISTER_SECONDS = 1.0
FOR_SITES = ("/v1/fleet/", "/health")
LONGEST_BYTES, MOST_CONNECTIONS = 64 * 2**20, 256


class ForSites:
    """An ASGI app that hands on what is for sites, and answers 404 to all else."""

    def __init__(self, app: Callable[..., Any]):
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"].startswith(FOR_SITES):
            await self.app(scope, _limited(receive), send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})


def _limited(receive: Any) -> Any:
    """Cut a request off that is longer than any of ours: Flower reads all of it before it asks whose it is."""
    n_bytes = 0

    async def limited() -> Any:
        nonlocal n_bytes
        part = await receive()
        n_bytes += len(part.get("body", b""))
        return part if n_bytes <= LONGEST_BYTES else {"type": "http.disconnect"}

    return limited


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
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=free_port(),
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
    quiet: dict[str, Any] = {"log_config": None, "access_log": False}
    commands = uvicorn.Server(uvicorn.Config(app, host=config.host, port=config.port, **quiet))
    sites = uvicorn.Server(
        uvicorn.Config(
            ForSites(app),
            host=home.server.listen,
            port=home.server.port,
            ssl_certfile=home.path / "server.pem",
            ssl_keyfile=str(home.path / "server.key"),
            lifespan="off",
            limit_concurrency=MOST_CONNECTIONS,
            **quiet,
        )
    )
    ended = threading.Event()
    door = threading.Thread(target=_run, args=(sites, commands, ended), daemon=True)

    def begin() -> None:
        while not commands.started and not ended.is_set():
            time.sleep(0.05)
        if ended.is_set():
            return
        register = _Register(home, app.state.linkstate_factory.state(), say)
        register.update()  # before anybody may knock
        door.start()
        while not sites.started and door.is_alive():
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
        if door.ident is not None:
            door.join(timeout=10)
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


class _Register:
    """Makes Flower's register equal to the folder of keys, and writes down which site is there."""

    def __init__(self, home: ServerHome, state: Any, say: Callable[[str], object]):
        self.home, self.state, self.say = home, state, say
        self.nodes: dict[int, Node] = {}
        self.refused: set[bytes] = set()

    def keep(self, ended: threading.Event) -> None:
        """Bring it up to date as long as the server runs."""
        while not ended.wait(REGISTER_SECONDS):
            try:
                self.update()
            except Exception:
                logging.getLogger("flwr").exception("the register could not be brought up to date")

    def update(self) -> None:
        """Bring it up to date once."""
        names: dict[bytes, str] = {}
        for name, path in self.home.sites().items():
            try:
                names[public_key_to_bytes(read_public_key(path)[0])] = name
            except InputError as error:
                logging.getLogger("flwr").error("%s", error)
        known = {info.public_key: info.node_id for info in self._infos()}
        for key in names.keys() - known.keys() - self.refused:
            try:
                self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL)
            except ValueError:
                self.refused.add(key)
                self.say(
                    f"site {names[key]} is not registered: its key was removed once, and Flower takes no key twice;"
                    " let the site make another one with `mfscsn site new-key`"
                )
        for key in known.keys() - names.keys():
            self.state.delete_node(NOOP_FLWR_AID, known[key])

        nodes = {info.node_id: self._node(info, names[info.public_key]) for info in self._infos()}
        for node_id in self.nodes.keys() - nodes.keys():
            self.say(f"site {self.nodes[node_id].site} is no longer registered")
        if nodes != self.nodes or not self.home.nodes.exists():
            write_nodes(self.home.nodes, nodes)
        self.nodes = nodes

    def _node(self, info: Any, site: str) -> Node:
        online, last = info.status == NodeStatus.ONLINE, self.nodes.get(info.node_id)
        if last is not None and last.online == online:
            return last
        if online:
            self.say(f"site {site} is connected")
        else:
            self.say(f"site {site} {'is registered' if last is None else 'is gone'}")
        return Node(site, online, time.strftime("%Y-%m-%d %H:%M:%S"))

    def _infos(self) -> list[Any]:
        infos = self.state.get_node_info(owner_aids=[NOOP_FLWR_AID])
        return [info for info in infos if info.status != NodeStatus.UNREGISTERED]


def _log_to(path: Path) -> None:
    """Send what Flower and uvicorn log to a file instead of the terminal."""
    handler = logging.FileHandler(path)
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
