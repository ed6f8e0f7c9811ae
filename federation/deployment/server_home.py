"""The server's own folder in a deployment: what the federation agrees on, certificates, the register, Flower, runs.

``server.toml`` and ``federation.toml`` are the coordinator's to edit; ``invitation.toml`` is made from them, and goes
to every site; ``sites/NAME.pub`` is the register: who has a file there may join.
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from pydantic import Field

from data.errors import InputError, nearest
from data.files import check_free, replaced
from federation.contract import NAME, ONE_MESSAGE, Agreed, Contract, Federation, Name, Site
from federation.deployment import keys
from federation.deployment.app_bundle import bundle_hash
from federation.events import AUDIT, record
from federation.invitation import RUNS, Invitation, write_invitation
from federation.register import Node, read_nodes
from federation.run_folder import RunFolder, damaged_runs_in, runs_in
from federation.tables import Table, parse_table, read_toml

SERVER_HEAD = "# Where the server listens, and the names or addresses by which sites reach it: the first one is used.\n"
FEDERATION_HEAD = """\
# What all sites agree on. After a change, send invitation.toml to every site again: a site with another contract is
# refused by name. `rounds` alone may change freely.
"""


class ServerFile(Table):
    """``server.toml``.

    Parameters
    ----------
    hosts : list of str
        Names or addresses of the server, as sites know it; they stand in its certificate.
    port : int
        That sites dial to.
    listen : str
        Address of this machine to listen on.
    command_port : int
        Of 127.0.0.1, for this machine's commands and ``GET /metrics``; 0 takes a free one at every start.
    """

    hosts: list[str] = Field(min_length=1)
    port: int = Field(9092, ge=1, le=65535)
    listen: str = "0.0.0.0"  # noqa: S104 sites come from elsewhere
    command_port: int = Field(0, ge=0, le=65535)


def _is_one_message(values: dict[str, Any]) -> bool:
    contract = values.get("contract")
    return isinstance(contract, Contract) and contract.strategy == ONE_MESSAGE


class FederationFile(Agreed):
    """``federation.toml`` of a server: a FED.toml without its sites, and how many runs the sites are told of."""

    name: Name
    # Two sums tell who is in one of them alone: each one of one message is announced, and accepted at the sites
    runs: int = Field(default_factory=lambda data: 1 if _is_one_message(data) else RUNS, ge=1)


class ServerHome:
    """A server's folder, opened.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        When a file is missing, or says what it may not; one line.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        where = self.path / "server.toml"
        if not where.is_file():
            raise InputError(f"{path}: no server here (server.toml is missing); make one with `mfscsn server init`")
        self.server: ServerFile = parse_table(ServerFile, read_toml(where), str(where))
        where = self.path / "federation.toml"
        self.federation: FederationFile = parse_table(FederationFile, read_toml(where), str(where))

    @classmethod
    def create(
        cls,
        path: Path,
        server: ServerFile,
        federation: FederationFile,
        own: tuple[Path, Path, Path] | None = None,
    ) -> "ServerHome":
        """Make a server's folder.

        Parameters
        ----------
        path : Path
            New or empty.
        server, federation
            What its two files say at first.
        own : three paths, optional
            A certificate of one's own, its private key, and the authority's certificate; made here when left out.
        """
        check_free(path, "name another folder")
        if own is not None:
            keys.check_server_certificate(*own, server.hosts)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        (path / "sites").mkdir()
        if own is not None:
            for source, name in zip(own, ("server.pem", "server.key", "authority.pem"), strict=True):
                (path / name).touch(mode=0o600)
                (path / name).write_bytes(source.read_bytes())
        else:
            keys.make_authority(federation.name, path / "authority.pem", path / "authority.key")
        for name, head, table in (
            ("federation.toml", FEDERATION_HEAD, federation),
            ("server.toml", SERVER_HEAD, server),
        ):
            with replaced(path / name) as out:
                out.write((head + tomli_w.dumps(table.model_dump(mode="json", exclude_none=True))).encode())
        home = cls(path)
        home.ready()
        return home

    def ready(self) -> bool:
        """Make the certificate where it is missing, and the invitation anew; return whether the invitation changed.

        Raises
        ------
        InputError
            When the certificate does not do, and the authority's key is not here to make another.
        """
        certificate, key = self.path / "server.pem", self.path / "server.key"
        authority, authority_key = self.path / "authority.pem", self.path / "authority.key"
        if authority_key.exists():
            if not certificate.exists() or keys.days_left(certificate) < 1 or not self._names_hosts(certificate):
                key.unlink(missing_ok=True)
                keys.make_server_certificate(self.server.hosts, authority, authority_key, certificate, key)
        elif not certificate.exists() or keys.days_left(certificate) < 0:
            raise InputError(
                f"{certificate}: missing, or has run out; put another there with its server.key, or bring back"
                f" {authority_key.name}, with which one is made"
            )
        host, path = self.server.hosts[0], self.path / "invitation.toml"
        before = path.read_bytes() if path.exists() else None
        invitation = Invitation(
            name=self.federation.name,
            server=f"{f'[{host}]' if ':' in host else host}:{self.server.port}",
            app=bundle_hash(),
            certificate=(self.path / "authority.pem").read_text(),
            contract=self.federation.contract,
            training=self.federation.training,
            runs=self.federation.runs,
        )
        write_invitation(path, invitation)
        return before != path.read_bytes()

    def renew(self) -> int:
        """Make another certificate, in place of one that ends soon; return the days that it lasts.

        Raises
        ------
        InputError
            When the authority's key is not here, or the authority itself ends before.
        """
        authority, authority_key = self.path / "authority.pem", self.path / "authority.key"
        if not authority_key.exists():
            raise InputError(
                f"{authority_key}: not here; put another server.pem and server.key into {self.path}, signed by the"
                " authority that the invitation names"
            )
        new, new_key = self.path / "server.pem.new", self.path / "server.key.new"
        for path in (new, new_key):
            path.unlink(missing_ok=True)
        keys.make_server_certificate(self.server.hosts, authority, authority_key, new, new_key)
        new_key.replace(self.path / "server.key")
        new.replace(self.path / "server.pem")
        return keys.days_left(self.path / "server.pem")

    def _names_hosts(self, certificate: Path) -> bool:
        return set(self.server.hosts) <= keys.hosts(certificate)

    def add_site(self, public_key: Path, name: str | None = None) -> str:
        """Register a site's public key; return the site's name.

        Raises
        ------
        InputError
            When the file holds no key, the name is none or taken, or the key is registered already.
        """
        key, comment = keys.read_public_key(public_key)
        chosen = parse_table(Site, {"name": name or comment}, f"{public_key}: the site's").name
        for other, path in self.sites().items():
            known = keys.read_public_key(path)[0]
            if known == key:
                raise InputError(f"{public_key}: this key is registered already, for site {other!r}")
            if other == chosen:
                raise InputError(
                    f"site {other!r} has another key already; take it off first with `mfscsn server remove-site`, or"
                    " give another --name"
                )
        content = public_key.read_bytes()
        with replaced(self.path / "sites" / f"{chosen}.pub") as out:
            out.write(content)
        again = [path for path in self.removed().values() if _holds(path, key)]
        for path in {*again, *self.removed_without_key(chosen)}:
            path.unlink()  # or it would be refused where its file in sites/ is away
        return chosen

    def remove_site(self, name: str) -> Path:
        """Take a site off the register; return where its key lies now, from where it may come back.

        Raises
        ------
        InputError
            When there is no such site.
        """
        sites = self.sites()
        known = sorted({*sites, *self.connected()})
        if name not in known:
            there = ", ".join(known) or "none"
            raise InputError(f"{self.path}: no site {name!r}{nearest(name, known)}; registered: {there}")
        (self.path / "removed").mkdir(exist_ok=True)
        places = (self.path / "removed" / f"{name}-{number}.pub" for number in itertools.count(1))
        gone = next(path for path in places if not path.exists())
        if name in sites:
            sites[name].rename(gone)
        else:  # its key is lost: the name is what is left of it
            gone.touch()
        return gone

    def forget_site(self, name: str) -> list[str]:
        """Remove the sums of every run that a site's message is in; return the names of these runs.

        Raises
        ------
        InputError
            When the site still is registered, or no run knows it.
        """
        if name in self.sites():
            raise InputError(
                f"{self.path}: site {name!r} is registered, and would be in the next sum again; first:"
                f" mfscsn server remove-site {self.path} {name}"
            )
        took_part = [run for run in self.runs() if any(row["site"] == name for row in run.history())]
        known = sorted({row["site"] for run in self.runs() for row in run.history()})
        if not took_part:
            raise InputError(f"{self.path}: no run knows a site {name!r}{nearest(name, known)}")
        why = f"its sums were removed, because site {name!r} is to be forgotten; a fresh sum: `mfscsn server train`"
        removed = [run.path.name for run in took_part if run.forget_sums(why)]
        self.record("forget", site=name, runs=removed)
        return removed

    def sites(self) -> dict[str, Path]:
        """Return the registered sites' public keys by name, sorted."""
        return _public_keys(self.path / "sites")

    def removed(self) -> dict[str, Path]:
        """Return the public keys that were taken off the register."""
        return _public_keys(self.path / "removed")

    def removed_without_key(self, name: str) -> list[Path]:
        """List what was taken off the register by its name alone, because its key could not be read."""
        found = []
        for path in (self.path / "removed").glob(f"{name}-*.pub"):
            try:
                keys.read_public_key(path)
            except InputError:
                found.append(path)
        return found

    def record(self, what: str, **about: object) -> None:
        """Add a line to the audit trail, ``audit.jsonl``."""
        record(self.path / AUDIT, what, **about)

    def nodes_before(self) -> dict[int, Node]:
        """Return the register of the server that ran last; empty when it cannot be read."""
        try:
            return {number: replace(node, online=False) for number, node in read_nodes(self.nodes).items()}
        except InputError:
            return {}

    def federation_of_sites(self, rounds: int | None = None) -> Federation:
        """Return the federation as its run freezes it: the registered sites have a name and nothing else.

        Raises
        ------
        InputError
            When no site is registered.
        """
        if not self.sites():
            raise InputError(f"{self.path}: no site is registered; add one with `mfscsn server add-site`")
        training = self.federation.training
        if rounds is not None:
            training = training.model_copy(update={"rounds": rounds})
        return Federation(
            name=self.federation.name,
            contract=self.federation.contract,
            training=training,
            site=[Site(name=name) for name in self.sites()],
        )

    @property
    def flower(self) -> Path:
        """Flower's home."""
        return self.path / "flower"

    @property
    def nodes(self) -> Path:
        """The register of nodes that the running server writes."""
        return self.path / "nodes.json"

    def connected(self) -> dict[str, Node]:
        """Return the registered sites as the server saw them last."""
        return {node.site: node for node in self.nodes_now().values()}

    def nodes_now(self) -> dict[int, Node]:
        """Return the same by Flower's number of the node."""
        return read_nodes(self.nodes)

    def command_port(self) -> int | None:
        """Return the port of 127.0.0.1 where the running server takes commands; None when it never ran."""
        path = self.flower / "port.json"
        if not path.exists():
            return None
        try:
            return int(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: damaged; remove it, and start the server again") from error

    def runs(self) -> Sequence[RunFolder]:
        """Open all runs, the oldest first."""
        return runs_in(self.path / "runs")

    def damaged_runs(self) -> dict[Path, str]:
        """Return the runs that cannot be opened, and why."""
        return damaged_runs_in(self.path / "runs")


def _holds(path: Path, key: EllipticCurvePublicKey) -> bool:
    try:
        return keys.read_public_key(path)[0] == key
    except InputError:
        return False


def _public_keys(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.pub")) if re.fullmatch(NAME, path.stem)}
