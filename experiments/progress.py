"""What a long piece of work tells whoever watches it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A stage, how far it is, and a detail such as the last round's mean loss."""

    stage: str
    done: int
    total: int
    detail: str = ""
