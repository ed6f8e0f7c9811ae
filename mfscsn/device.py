"""Where a round is trained: on the processor, or on a graphics card for the length of the round."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

Device = Literal["cpu", "cuda", "auto"]  # the command line asks for it, before torch is loaded


def found_device(device: Device) -> str:
    """Return "cpu" or "cuda": "auto" is a card where torch sees one.

    Raises
    ------
    ValueError
        When a card is asked for, and torch sees none.
    """
    if device == "cpu":
        return "cpu"
    import torch

    seen = torch.cuda.is_available()
    if device == "cuda" and not seen:
        raise ValueError('device = "cuda", but torch sees no graphics card here; take "cpu", or "auto"')
    return "cuda" if seen else "cpu"


@contextmanager
def held_on(network: "nn.Module", device: str) -> Iterator[None]:
    """Hold a network on a device, and draw random numbers there without an effect on others; then it comes back."""
    import torch

    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        network.to(device)
        try:
            yield
        finally:
            network.to("cpu")
