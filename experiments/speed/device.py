"""A site's round of training on a graphics card and on the processor."""

import os
from collections.abc import Callable

import numpy as np
import torch

from mfscsn.branch import Branch, BranchTrials
from mfscsn.choices import COMMON_SPACE
from mfscsn.common_space import ELECTRODES
from mfscsn.network import Architecture
from mfscsn.riemann import n_views
from mfscsn.settings import Settings
from mfscsn.training import train_round

LABELS = ("left_hand", "right_hand")
N_TIMES, SFREQ = 416, 128.0  # the default contract's 3.25 s
CASES = (  # a body of the common space, and a site's training trials
    ("eegnet", 600),
    ("eegnet", 3000),
    ("tangent", 600),
    ("tangent", 3000),
    ("braindecode:ShallowFBCSPNet", 600),
    ("braindecode:EEGConformer", 600),
)


def rounds(body: str, n_trials: int) -> dict[str, Callable[[], object]]:
    """Return a site's round on one thread, "thread", on all processors', "threads", and on a graphics card, "card".

    Parameters
    ----------
    body : str
        Of the common space.
    n_trials : int

    Returns
    -------
    dict
        Name -> a function that trains one round; without "card" where torch sees none.
    """
    electrodes = ELECTRODES["motor21"]
    rng = np.random.default_rng(0)
    n_pairs = len(electrodes) * (len(electrodes) + 1) // 2
    form = (n_views(N_TIMES, SFREQ, None), n_pairs) if body == "tangent" else (len(electrodes), N_TIMES)
    signals = rng.standard_normal((n_trials, *form)).astype(np.float32)
    trials = {"any": BranchTrials(signals, np.arange(n_trials) % 2, LABELS)}

    def side(threads: int, device: str) -> Callable[[], object]:
        network = Architecture(N_TIMES, SFREQ, COMMON_SPACE, electrodes=electrodes, body=body).build(
            {"any": Branch(len(electrodes), 2, LABELS)}
        )

        def one_round() -> None:
            torch.set_num_threads(threads)
            train_round(network, trials, Settings(rounds=1), seed=0, device=device)

        return one_round

    sides = {"thread": side(1, "cpu"), "threads": side(len(os.sched_getaffinity(0)), "cpu")}
    return sides | ({"card": side(1, "cuda")} if torch.cuda.is_available() else {})
