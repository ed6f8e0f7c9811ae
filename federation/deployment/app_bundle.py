"""The app bundle that Flower carries from the server to the sites, and the hash that says which code it stands for.

It holds no code of the method: it names the installed packages, and the digest of their files. So a site that runs the
same code can make the very same bundle, and needs nothing of the one it is sent but its hash.
"""

import hashlib
import subprocess
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

from data.errors import FailedError
from data.files import sha256
from federation.guard import flower_environment, program
from mfscsn.packages import PACKAGES

APP = """\
[project]
name = "mfscsn-run"
version = "{version}"
description = "the installed MF-SCSN, of code {code}"
license = "BSD-3-Clause"

[tool.flwr.app]
publisher = "mfscsn"

[tool.flwr.app.components]
serverapp = "mfscsn_app:server"
clientapp = "mfscsn_app:client"

[tool.flwr.app.config]
run = ""
store = ""
federation = ""
nodes = ""
threads = 1
"""
APP_MODULE = """\
from federation import client_app, server_app

client = client_app.app
server = server_app.app
"""


def write_app(folder: Path) -> None:
    """Write the app that stands for the installed code into a new folder, for `flwr run`."""
    folder.mkdir(parents=True)
    for name, content in _files().items():
        (folder / name).write_bytes(content)


def bundle_hash() -> str:
    """Return the SHA-256 of the bundle that `flwr run` makes of the installed code: what a site approves."""
    return _built(code_digest())


@cache
def _built(code: str) -> str:
    """Have Flower's own command make the bundle of a code's digest, and return its SHA-256."""
    with tempfile.TemporaryDirectory() as folder:
        write_app(Path(folder) / "app")
        words = [program("flwr"), "build", "--app", "app"]
        done = subprocess.run(
            words, env=flower_environment(Path(folder)), cwd=folder, capture_output=True, text=True, check=False
        )
        made = list(Path(folder).glob("*.fab"))
        if done.returncode != 0 or len(made) != 1:
            raise FailedError(f"flwr build failed: {(done.stdout + done.stderr).strip()}")
        return sha256(made[0])


def code_digest() -> str:
    """Digest every Python file of the installed packages: names and contents."""
    root, digest = Path(__file__).resolve().parents[2], hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files() -> dict[str, bytes]:
    return {
        "pyproject.toml": APP.format(version=version("mfscsn"), code=code_digest()).encode(),
        "mfscsn_app.py": APP_MODULE.encode(),
    }
