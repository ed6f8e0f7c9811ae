"""What every network of a federation is: a common part, which may be sent, and a private part, by branches."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mfscsn.branch import Branch
from mfscsn.common_space import mirrored


class SplitModule(nn.Module):
    """A module whose state falls into a common part, which may be sent, and a private part, which may not.

    Only parameters are common. Buffers are running averages over a site's own signals, so they stay there.
    """

    common_prefixes: tuple[str, ...] = ()
    private_parts: tuple[str, ...] = ()
    branches: dict[str, Branch]

    def deep_features(self, x: Tensor, branch: str) -> list[Tensor]:
        """Return the outputs of the deep layers of one branch, the logits last."""
        raise NotImplementedError

    def head(self, branch: str) -> nn.Linear:
        """Return the last layer of a branch."""
        raise NotImplementedError

    def augmented(self, x: Tensor, labels: Tensor, branch: str) -> tuple[Tensor, Tensor]:
        """Return a training batch ``(batch, ...)`` and its labels as training shows them: here, as they are."""
        return x, labels

    def shown_counts(self, labels: Tensor, n_outputs: int, branch: str) -> Tensor:
        """Return how many trials of each output of a branch training shows: here, as many as there are."""
        return torch.bincount(labels, minlength=n_outputs).float()

    def anchor_heads(self) -> None:
        """Hold each head to the rows that it has now, where heads are held: here, they are not."""

    def after_step(self, lr: float) -> None:
        """Do what follows each step of training: here, nothing."""

    def common_names(self) -> list[str]:
        """Name the parameters that may leave the site."""
        return [
            name
            for name, _ in self.named_parameters()
            if name.startswith(self.common_prefixes or ("\0",)) and not any(p in name for p in self.private_parts)
        ]

    def common_state(self) -> dict[str, Tensor]:
        """Copy the common layers: name -> tensor."""
        state = self.state_dict()
        return {name: state[name].detach().clone() for name in self.common_names()}

    def private_state(self) -> dict[str, Tensor]:
        """Copy all that stays at the site: name -> tensor."""
        common = set(self.common_names())
        return {name: value.detach().clone() for name, value in self.state_dict().items() if name not in common}

    def load_common(self, state: Mapping[str, Tensor]) -> None:
        """Take common layers; raise ValueError that names the array when a name or shape differs."""
        self._load(state, self.common_state(), "common")

    def load_private(self, state: Mapping[str, Tensor]) -> None:
        """Take private layers; raise ValueError that names the array when a name or shape differs."""
        self._load(state, self.private_state(), "private")

    def _load(self, state: Mapping[str, Tensor], own: Mapping[str, Tensor], part: str) -> None:
        for name in sorted(own.keys() | state.keys()):
            if name not in state or name not in own:
                raise ValueError(f"{part} layer {name!r} is {'missing' if name in own else 'unknown'}")
            if state[name].shape != own[name].shape:
                raise ValueError(
                    f"{part} layer {name!r} has shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
                )
        self.load_state_dict(dict(state), strict=False)


def mirrored_label(label: str) -> str:
    """Name what the mirrored head imagines: right_hand for left_hand, feet for feet."""
    sides = {"left": "right", "right": "left"}
    return re.sub("left|right", lambda side: sides[side.group()], label)


def image_of(electrodes: Sequence[str], labels: Sequence[str]) -> tuple[Tensor, Tensor] | None:
    """Return the places of the mirrored electrodes and labels; None where one has no image, or nothing would move."""
    outputs = [mirrored_label(label) for label in labels]
    across = [mirrored(name) for name in electrodes]
    if outputs == list(labels) or set(outputs) != set(labels) or set(across) != set(electrodes):
        return None
    return (
        torch.tensor([list(electrodes).index(name) for name in across]),
        torch.tensor([list(labels).index(name) for name in outputs]),
    )
