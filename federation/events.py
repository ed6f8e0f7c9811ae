"""What a service prints: one line an event, with the time."""

import time


def event(line: str) -> str:
    """Print a line with the time before it, at once; return it as it was printed."""
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(line.split())}"
    print(text, flush=True)
    return text
