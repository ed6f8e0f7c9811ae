"""EDF+D and BDF+D: recordings with pauses between their records, which readers take for gapless.

References
----------
Kemp and Olivan 2003, Clinical Neurophysiology 114:1755-1761: EDF+.
"""

import re
from pathlib import Path

import numpy as np

from data.errors import InputError

HEADER, PER_SIGNAL, LABEL, SAMPLES = 256, 256, 16, 8  # bytes
SAMPLE_BYTES = {".edf": 2, ".bdf": 3}
OF_RECORD = re.compile(rb"^([+-]\d+(?:\.\d*)?)\x14\x14")  # the first annotation of a record: when it began


def first_pause(path: Path) -> tuple[float, float] | None:
    """Find the first pause between the records of an EDF+D or BDF+D file.

    Returns
    -------
    tuple of float, or None
        Seconds of recorded signal before the pause, and seconds that the pause lasts (negative: time runs back). None
        for a file of another kind, or one whose records follow one another.
    """
    if path.suffix.lower() not in SAMPLE_BYTES:
        return None
    with path.open("rb") as file:
        if file.read(HEADER)[192:197] not in (b"EDF+D", b"BDF+D"):  # nearly all: a gigabyte is not read for nothing
            return None
    try:
        starts, duration = _record_starts(path.read_bytes(), SAMPLE_BYTES[path.suffix.lower()])
    except (ValueError, IndexError):  # damaged: whoever reads it says so
        return None
    late = np.diff(starts) - duration
    (pauses,) = np.nonzero(np.abs(late) > 1e-3)
    return (float((pauses[0] + 1) * duration), float(late[pauses[0]])) if len(pauses) else None


def refuse_pause(path: Path) -> None:
    """Raise InputError for a file with a pause between its records; readers take it for gapless."""
    pause = first_pause(path)
    if pause is not None:
        raise InputError(
            f"{path}: stands still for {pause[1]:.3g} s after {pause[0]:.3g} s (EDF+D), and all later cues would be"
            " read at a wrong place; write one file for each part, or leave the subject out with subjects = [...]"
        )


def refuse_cut(path: Path) -> None:
    """Raise InputError for an EDF or BDF file that is shorter than its header says: readers take what is there."""
    if path.suffix.lower() not in SAMPLE_BYTES:
        return
    try:
        with path.open("rb") as file:
            fixed = file.read(HEADER)
            head, n_records, n_signals = int(fixed[184:192]), int(fixed[236:244]), int(fixed[252:256])
            rest = file.read(n_signals * PER_SIGNAL)
        at = n_signals * (PER_SIGNAL - 40)
        sizes = [int(rest[at + SAMPLES * k : at + SAMPLES * (k + 1)]) for k in range(n_signals)]
        wanted = head + n_records * SAMPLE_BYTES[path.suffix.lower()] * sum(sizes)
    except (ValueError, OSError):  # damaged: whoever reads it says so
        return
    if n_records > 0 and (there := path.stat().st_size) < wanted:
        raise InputError(
            f"{path}: has {there} bytes and its header says {wanted}; it was cut short: copy it anew, or leave the"
            " subject out with subjects = [...]"
        )


def _record_starts(content: bytes, sample_bytes: int) -> tuple[list[float], float]:
    head, n_records = int(content[184:192]), int(content[236:244])
    duration, n_signals = float(content[244:252]), int(content[252:256])

    def field(number: int, before: int, size: int) -> bytes:
        at = HEADER + n_signals * before + size * number
        return content[at : at + size]

    labels = [field(k, 0, LABEL).decode("latin-1").strip() for k in range(n_signals)]
    sizes = [sample_bytes * int(field(k, PER_SIGNAL - 40, SAMPLES)) for k in range(n_signals)]
    marks = next(k for k, label in enumerate(labels) if label in ("EDF Annotations", "BDF Annotations"))
    starts = []
    for record in range(n_records):
        at = head + record * sum(sizes) + sum(sizes[:marks])
        found = OF_RECORD.match(content[at : at + sizes[marks]])
        if found is None:
            raise ValueError("a record does not say when it began")
        starts.append(float(found[1]))
    return starts, duration
