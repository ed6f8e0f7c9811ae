"""The names of channels: what an amplifier writes, and the electrode that is meant."""

import re
from collections.abc import Sequence

AMPLIFIERS = re.compile(r"^(eeg[ _-]+)|([ _-]+(ref|le|re|avg|av|a1a2))$|\.+$", re.IGNORECASE)


def plain_names(names: Sequence[str]) -> dict[str, str]:
    """Return better names of channels: ``Fc5.`` and ``EEG C3-REF`` are FC5 and C3.

    Only where the plain name is an electrode of the extended 10-20 system and no two channels would have it.
    """
    import mne  # a second to load

    spelt = {name.lower(): name for name in mne.channels.make_standard_montage("colin27_1005").ch_names}
    found = {}
    for name in names:
        plain = name
        while (shorter := AMPLIFIERS.sub("", plain).strip()) != plain:
            plain = shorter
        if plain != name and plain.lower() in spelt:
            found[name] = spelt[plain.lower()]
    taken = [*found.values(), *(name for name in names if name not in found)]
    return {old: new for old, new in found.items() if taken.count(new) == 1}
