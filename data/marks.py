"""Annotations that are no cue: they mark signals that are bad, or a place where the recording stood still."""

# As EEGLAB writes it, or as numbers; as others do; BioSemi's and OpenViBE's; of GDF (0x7FFE): "start of a new segment"
BREAKS = ("boundary", "discontinuity", "-99", "32766", "gap")
SEGMENT = "new segment"  # BrainVision's, with what comes behind it; the first one begins the recording
BAD = ("bad", "edge")  # MNE leaves out trials that reach into what begins so
BROKEN = "BAD boundary"  # what a break is called once it is known


def is_break(name: str) -> bool:
    """Return whether an annotation says that the recording stood still there; capitals do not matter."""
    plain = name.strip().lower().removesuffix(".0")
    return plain.startswith((SEGMENT, *BREAKS[:2])) or plain in BREAKS


def is_mark(name: str) -> bool:
    """Return whether an annotation marks signals, and is no cue."""
    return name.strip().lower().startswith(BAD) or is_break(name)
