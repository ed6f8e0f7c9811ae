"""What commands print: names come from files and from other parties, and may hold what moves a terminal's cursor."""

from data.errors import printable


def say(text: str, end: str = "\n") -> None:
    """Print a text without control characters."""
    print(printable(text), end=end, flush=True)
