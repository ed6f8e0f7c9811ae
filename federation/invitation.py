"""The invitation: the one file that the server gives to every site. Nothing in it is secret, all of it matters.

It names the server, the authority whose certificate the server shows, the contract, how sites train, and the hash of
the app bundle that the server will ask sites to run.
"""

import re
from pathlib import Path

import tomli_w
from pydantic import Field, field_validator

from data.files import replaced
from federation.contract import Contract, Name, Training
from federation.tables import Table, parse_table, read_toml

HEAD = """\
# What a site needs to join this federation. It holds no secret, but whoever can change it chooses whom a site
# believes: send it by a way you trust, and compare its SHA-256 over another one.
"""


RUNS = 20


class Invitation(Table):
    """What a site must know of the federation.

    Parameters
    ----------
    name : str
        Of the federation.
    server : str
        HOST:PORT, where sites dial out to.
    app : str
        SHA-256 of the app bundle, as `federation.deployment.app_bundle` makes it.
    certificate : str
        PEM of the authority that signed the server's certificate.
    contract, training
        As in a FED.toml.
    runs : int
        How many runs a site takes part in under this contract; for more, the coordinator announces more.
    """

    name: Name
    server: str
    app: str
    certificate: str
    contract: Contract
    training: Training
    runs: int = Field(RUNS, ge=1)

    @field_validator("server")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        parts = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(\d{1,5})", value)
        if not parts or not 0 < int(parts[2]) < 65536:
            raise ValueError("expected HOST:PORT")
        return value

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.server.rpartition(":")
        return host.strip("[]"), int(port)


def read_invitation(path: Path) -> Invitation:
    """Read an invitation; raise InputError that names the file and the fault."""
    return parse_table(Invitation, read_toml(path), str(path))


def write_invitation(path: Path, invitation: Invitation) -> None:
    """Write an invitation in one step."""
    text = HEAD + tomli_w.dumps(invitation.model_dump(mode="json", exclude_none=True), multiline_strings=True)
    with replaced(path) as out:
        out.write(text.encode())
