"""What a user is told in one line, without a traceback: a mistake that can be mended, and work that failed."""

import difflib


class FailedError(RuntimeError):
    """Work that failed on its way: the message says why and where to look; shown as one line, exit code 1."""


class InputError(ValueError):
    """Bad input: the message names the site or file, the value, what was expected, and what to do."""


def nearest(name: str, known: list[str]) -> str:
    """Suggest the nearest known name, as the end of an error's sentence: ``; did you mean '001'?`` or nothing."""
    if name.isdigit():  # subject 1 where the folder says 001
        for candidate in known:
            if candidate.isdigit() and int(candidate) == int(name):
                return f"; did you mean {candidate!r}?"
    lower = {candidate.lower(): candidate for candidate in known}
    close = [lower[match] for match in difflib.get_close_matches(name.lower(), list(lower), n=1)]
    return f"; did you mean {close[0]!r}?" if close else ""


def printable(text: str) -> str:
    """Return text as a terminal bears it: names of files and sites may hold what moves its cursor."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def one_line(error: Exception) -> str:
    """Return the first line of what an error says, or what kind it is."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
