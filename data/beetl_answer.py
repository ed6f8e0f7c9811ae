"""BEETL, motor imagery: answers and labels, one submitted code a line, in the organisers' order."""

import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.beetl import LABEL_FILE, SUMS_FILE
from data.errors import InputError
from data.files import replaced

N_ANSWERS = 1000
N_CODES = 3
MAX_BYTES = 100_000  # of an answer; one of 1000 codes has 2 to 25 thousand
# Of the organisers' labels, one code a line
LABEL_SHA256 = "acc02ea06f547721dfedb47a5d9a1fa7c641b5b7a63495d3b325042e5de29ef9"


def read_codes(path: Path) -> NDArray[np.int64]:
    """Read an answer or a label file: one code a line, 1000 of them; of a zip, its ``answer.txt``.

    Raises
    ------
    InputError
        For a missing file, another number of lines, or a line that is no code.
    """
    lines = _read_text(path).split()
    codes = []
    for number, line in enumerate(lines, 1):
        try:
            value = float(line)  # numpy.savetxt writes 2.000000000000000000e+00 unless told otherwise
        except ValueError:
            value = np.nan
        if value not in range(N_CODES):
            raise InputError(f"{path}: code {number} is {line[:30]!r}, expected 0, 1 or 2, one a line")
        codes.append(int(value))
    if len(codes) != N_ANSWERS:
        raise InputError(f"{path}: {len(codes)} codes, expected {N_ANSWERS}: 200 of each of the five subjects")
    return np.array(codes, np.int64)


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise InputError(f"{path}: a folder, expected a file of codes")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    if content.startswith(b"PK") or path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
                answers = [name for name in names if name.rpartition("/")[2] == "answer.txt"]
                if len(answers) != 1:
                    many = f"{len(answers)} files" if answers else "no"
                    raise InputError(f"{path}: {many} answer.txt in it, but {names[:3]}; one was expected")
                about = archive.getinfo(answers[0])
                if about.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others have no bound
                    raise InputError(f"{path}: answer.txt is packed in a way that is not admitted; zip it plainly")
                if about.file_size > MAX_BYTES:
                    raise InputError(f"{path}: its answer.txt is no list of {N_ANSWERS} codes, it is far too long")
                content = archive.read(about)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, UnicodeDecodeError, EOFError) as error:
            raise InputError(f"{path}: not a whole, plain zip file ({error})") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file, expected one code a line") from error


def write_answer(folder: Path, codes: NDArray[np.int64], name: str = "answer") -> None:
    """Write ``answer.txt``, one code a line, and ``answer.zip`` with it inside, as the organisers took it."""
    text = "".join(f"{code}\n" for code in codes)
    with replaced(folder / f"{name}.txt") as out:
        out.write(text.encode())
    with replaced(folder / f"{name}.zip") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("answer.txt"), text)  # no date: equal answers are equal files


def read_label_file(path: Path) -> NDArray[np.int64]:
    """Read true codes; raise InputError as `read_codes` does, and when one of the three classes is not in them."""
    codes = read_codes(path)
    for code in range(N_CODES):
        if code not in codes:
            raise InputError(f"{path}: no trial has code {code}; true labels were expected, is it an answer?")
    return codes


def are_organisers(codes: NDArray[np.int64]) -> bool:
    """Return whether these are the organisers' labels of the final phase, by their published hash."""
    return _digest(codes) == LABEL_SHA256


def read_true_labels(root: Path) -> NDArray[np.int64] | None:
    """Read the final phase's labels below `root`; None when they are not there.

    Raises
    ------
    InputError
        When they are neither the organisers' nor those that ``SHA256SUMS`` lists.
    """
    path = root / LABEL_FILE
    if not path.exists():
        return None
    codes = read_label_file(path)
    listed = (root / SUMS_FILE).is_file() and f"{_digest(codes)}  {LABEL_FILE}" in (root / SUMS_FILE).read_text()
    if not are_organisers(codes) and not listed:
        raise InputError(
            f"{path}: neither the organisers' labels nor those that {SUMS_FILE} lists (another sha256), so a score on"
            " them would mean nothing; fetch or simulate again, or move the file away and run without a score"
        )
    return codes


def _digest(codes: NDArray[np.int64]) -> str:
    """Hash codes as a file with one a line would be."""
    return hashlib.sha256("".join(f"{code}\n" for code in codes).encode()).hexdigest()
