"""BEETL, motor imagery: answers and labels, one submitted code a line, in the organisers' order."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.beetl import LABEL_FILE, SUMS_FILE, sha256
from data.errors import InputError
from data.files import replaced

N_ANSWERS = 1000
N_CODES = 3
# Of the organisers' labels, one code a line
LABEL_SHA256 = "acc02ea06f547721dfedb47a5d9a1fa7c641b5b7a63495d3b325042e5de29ef9"


def read_codes(path: Path) -> NDArray[np.int64]:
    """Read an answer or a label file: one code a line, 1000 of them; of a zip, its ``answer.txt``.

    Raises
    ------
    InputError
        For a missing file, another number of lines, or a line that is no code.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                text = archive.read("answer.txt").decode()
        else:
            text = path.read_text()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except KeyError as error:
        raise InputError(f"{path}: no answer.txt in it") from error
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    lines = text.split()
    for number, line in enumerate(lines, 1):
        if line not in ("0", "1", "2"):
            raise InputError(f"{path}: code {number} is {line[:20]!r}, expected 0, 1 or 2")
    if len(lines) != N_ANSWERS:
        raise InputError(f"{path}: {len(lines)} codes, expected {N_ANSWERS}: 200 of each subject, S1 to S5")
    return np.array(lines, np.int64)


def write_answer(folder: Path, codes: NDArray[np.int64], name: str = "answer") -> None:
    """Write ``answer.txt``, one code a line, and ``answer.zip`` with it inside, as the organisers took it."""
    text = "".join(f"{code}\n" for code in codes)
    with replaced(folder / f"{name}.txt") as out:
        out.write(text.encode())
    with replaced(folder / f"{name}.zip") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("answer.txt"), text)  # no date: equal answers are equal files


def read_true_labels(root: Path) -> NDArray[np.int64] | None:
    """Read the final phase's labels below `root`; None when they are not there.

    Raises
    ------
    InputError
        When the file is neither the organisers' nor listed in ``SHA256SUMS``.
    """
    path = root / LABEL_FILE
    if not path.exists():
        return None
    codes = read_codes(path)
    published = hashlib.sha256("".join(f"{code}\n" for code in codes).encode()).hexdigest() == LABEL_SHA256
    listed = (root / SUMS_FILE).is_file() and sha256(path) in (root / SUMS_FILE).read_text()
    if not published and not listed:
        raise InputError(
            f"{path}: not the organisers' labels (another sha256), so a score on it would mean nothing;"
            " fetch it again, or move it away and run without a score"
        )
    return codes
