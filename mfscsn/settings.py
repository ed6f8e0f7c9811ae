"""How every site trains: numbers alone, so that a contract is read without torch."""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """How every site trains. One round is `local_epochs` passes over the site's trials."""

    rounds: int = 200
    local_epochs: int = 1
    batch_size: int = 32  # trials of one branch in a step
    lr: float = 8e-3
    schedule: str = "cosine"  # lr falls to 0 along half a cosine, from the first round to the last; or "constant"
    weight_decay: float = 0.01
    mmd: float = 0.0  # weight of the discrepancy between the branches of a site
    private_first: int = 0  # passes over the private layers alone, then the common ones alone (FedRep); 0 is together
    fine_tune: int = 0  # passes over a target subject's own calibration after the last round; they stay at the site
    proximal_mu: float = 0.0  # FedProx: pull of the common layers to where the round began
    person_norm: float = 1.5  # of what a person says in one message of means (`mfscsn.sums`)
    sharpness: float = 0.0  # radius of sharpness-aware minimisation (Foret et al. 2021, ICLR); 0 is none

    def in_round(self, number: int) -> "Settings":
        """Return what holds in a round, the first of which is 1: the learning rate as the schedule has it."""
        if self.schedule == "constant":
            return self
        return replace(self, lr=self.lr * 0.5 * (1 + math.cos(math.pi * (number - 0.5) / self.rounds)))
