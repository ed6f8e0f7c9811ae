"""Write recordings of any source as BIDS, through MNE-BIDS: once, and every tool of the field reads them.

References
----------
Pernet et al. 2019, Scientific Data 6:103; Appelhoff et al. 2019, Journal of Open Source Software 4(44):1896.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from data.errors import InputError, one_line
from data.files import check_free
from data.sources import Source


def to_bids(
    source: Source,
    subjects: Sequence[str],
    out: Path,
    task: str,
    progress: Callable[[str], None] = lambda subject: None,
) -> None:
    """Write subjects' recordings as a BIDS data set in EDF, whose ``*_events.tsv`` name the cues as `trial_type`.

    Parameters
    ----------
    source : Source
    subjects : sequence of str
    out : Path
        A new folder.
    task : str
        What the ``task-`` of the files will be.
    progress : callable
        Called with each subject when it is written.

    Raises
    ------
    InputError
        When `out` is not empty, names have no letters or digits, or two subjects would have one name; when a recording
        has no cues, or is cut into trials; one line.
    """
    from data.bids import import_mne_bids

    mne_bids = import_mne_bids()

    check_free(out, resumable=False)
    names = {subject: _label(subject, "subject") for subject in subjects}
    twice = [subject for subject in subjects if list(names.values()).count(names[subject]) > 1]
    if twice:
        raise InputError(f"subjects {twice} would all be sub-{names[twice[0]]}; BIDS has letters and digits alone")
    for subject in subjects:
        for number, recording in enumerate(source.recordings(subject), 1):
            if hasattr(recording.raw, "event_id"):
                raise InputError(f"{recording.where}: is cut into trials already, and BIDS keeps whole recordings")
            if not len(recording.raw.annotations):
                raise InputError(f"{recording.where}: has no cues; give them as annotations, or in a table beside it")
            named = bool(recording.run) and not recording.run.isdigit()  # a run is a number; other names go elsewhere
            path = mne_bids.BIDSPath(
                root=out,
                subject=names[subject],
                session=_label(recording.session, "session") if recording.session else None,
                run=recording.run if recording.run.isdigit() else str(number),
                acquisition=_label(recording.run, "run") if named else None,
                task=_label(task, "task"),
                datatype="eeg",
            )
            recording.raw.load_data()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    mne_bids.write_raw_bids(
                        recording.raw, path, allow_preload=True, format="EDF", overwrite=False, verbose="ERROR"
                    )
            except (ValueError, RuntimeError, OSError) as error:
                if "divisible by data_record_duration" in str(error):
                    raise InputError(
                        f"{recording.where}: EDF, in which BIDS is written, holds whole records of about a second, and"
                        f" {recording.raw.n_times} samples at {recording.raw.info['sfreq']:g} Hz are none; resample it"
                        " to a whole number of Hz with your own tool, or use the folder as it is"
                    ) from error
                raise InputError(f"{recording.where}: cannot be written as BIDS ({one_line(error)})") from error
        progress(subject)


def _label(name: str, what: str) -> str:
    label = re.sub(r"[^A-Za-z0-9]+", "", name)
    if not label:
        raise InputError(f"{what} {name!r}: BIDS names have letters and digits alone")
    return label
