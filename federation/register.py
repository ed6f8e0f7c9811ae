"""Which site is behind each of Flower's nodes: written by the running server, read by its runs and by `status`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import InputError
from data.files import replaced


@dataclass(frozen=True)
class Node:
    """A registered site as Flower knows it; `since` is when it went online or offline, `heard` when it last asked."""

    site: str
    online: bool
    since: str
    heard: str = ""


def write_nodes(path: Path, nodes: Mapping[int, Node]) -> None:
    """Write the register in one step."""
    with replaced(path) as out:
        out.write(json.dumps({str(number): asdict(node) for number, node in nodes.items()}, indent=1).encode())


def read_nodes(path: Path) -> dict[int, Node]:
    """Read the register; empty before the server ran for the first time; raise InputError when it is damaged."""
    if not path.exists():
        return {}
    try:
        return {int(number): Node(**node) for number, node in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged; remove it, a running server writes it anew") from error
