"""Files and folders: written whole or not at all, held for one writer, and told from one another."""

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError


def check_free(path: Path, instead: str = "give another --out", resumable: bool = True) -> None:
    """Raise InputError, which says what to do instead, when something lies where a folder is to begin."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        run = resumable and (path / "environment.json").exists()
        hint = f", or continue it with --resume {path}" if run else ""
        raise InputError(f"{path}: already exists; {instead}{hint}")
    there = next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):  # now, not when all is prepared
        raise InputError(f"{path}: cannot be made, {there} is not a folder that can be written; {instead}")


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block ends well, and vanishes when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.filename is not None:
            raise
        # numpy says of a full disk how much it has written, and neither names the file
        why = error.strerror or f"{os.strerror(errno.ENOSPC)}? {error}"
        raise OSError(error.errno or errno.ENOSPC, why, str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_locked(folder: Path, who: str) -> bool:
    """Return whether somebody holds a folder now."""
    try:
        with locked(folder, who, ""):
            return False
    except InputError:
        return True


@contextmanager
def locked(folder: Path, who: str, refusal: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder for one writer; raise InputError with `refusal` when another holds it after `wait` seconds."""
    end = time.monotonic() + wait
    with (folder / f".{who}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise InputError(refusal) from None
                time.sleep(0.2)
        yield


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table in one step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    with replaced(path) as out:
        out.write(text.getvalue().encode())


def kept_array(path: Path, make: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Open an array that was made before as a memory map, or make it now and keep it.

    The path must name what the array is made of. Where it cannot be read or kept, it is made anew. Processes that open
    it share its pages; one that writes into it changes its own copy of a page, and never the file.
    """
    try:
        kept: NDArray[np.float32] = np.load(path, mmap_mode="c")
        return kept
    except (OSError, ValueError, EOFError):
        array = make()
    with suppress(OSError), replaced(path) as out:
        np.save(out, array)
    return array


def sha256(path: Path) -> str:
    """Digest a file as ``sha256sum`` does."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(root: Path, paths: Iterable[Path]) -> str:
    """Digest names below `root`, sizes and times of change: another value means that a file was changed."""
    stats = [(str(path.relative_to(root)), path.stat()) for path in paths]
    known = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
