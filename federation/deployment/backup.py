"""A server's backup: all of its folder in one file, taken while it runs, and put back as it was."""

import os
import shutil
import sqlite3
import tarfile
import tempfile
import zlib
from contextlib import closing
from pathlib import Path

from data.errors import InputError
from data.files import check_free
from federation.deployment.server_home import ServerHome

DATABASE = "flower/state.db"
LEFT_OUT = {"flower/state.db-wal", "flower/state.db-shm", "flower/port.json"}  # of the server that runs


def back_up(home: ServerHome, to: Path) -> None:
    """Write a server's folder to a tar file, for its owner alone: private keys are in it.

    Raises
    ------
    InputError
        When something is there already.
    """
    if to.exists():
        raise InputError(f"{to}: exists; a backup is never written over: name another file")
    part = to.with_name(f"{to.name}.part")
    part.unlink(missing_ok=True)
    with (
        os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out,
        tarfile.open(fileobj=out, mode="w:gz") as tar,
        tempfile.TemporaryDirectory() as folder,
    ):
        for path in sorted(home.path.rglob("*")):
            name = path.relative_to(home.path).as_posix()
            if name == DATABASE:  # it may be written to now: SQLite knows how to copy it
                copy = Path(folder) / "state.db"
                with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
                    source.backup(target)
                tar.add(copy, name)
            elif path.is_file() and name not in LEFT_OUT and ".log" not in path.name:
                tar.add(path, name)
    part.replace(to)


def restore(backup: Path, path: Path) -> ServerHome:
    """Put a backup back into a new or empty folder.

    Raises
    ------
    InputError
        When the file is no backup of a server, or the folder is not empty.
    """
    check_free(path, "name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=path.parent))  # for its owner alone
    try:
        with tarfile.open(backup, "r:gz") as tar:
            tar.extractall(part, filter="data")
        ServerHome(part)
        part.replace(path)
    except (OSError, EOFError, zlib.error, tarfile.TarError, InputError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise InputError(f"{backup}: cannot be read as a server's backup: {error}") from error
    return ServerHome(path)
