"""What a service prints, one line an event, with the time; and its audit trail, lines of JSON that stay."""

import json
import time
from pathlib import Path

AUDIT = "audit.jsonl"


def event(line: str) -> str:
    """Print a line with the time before it, at once; return it as it was printed."""
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(line.split())}"
    print(text, flush=True)
    return text


def record(path: Path, what: str, **about: object) -> None:
    """Add a line to an audit trail: the time, what happened, and what is to be known about it."""
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": what, **about})
    with path.open("a") as out:
        out.write(f"{line}\n")
