"""A site's round of training on a graphics card and on the processor."""

import os
import time
from collections.abc import Callable

import numpy as np
import torch

from mfscsn.common_space import ELECTRODES
from mfscsn.heads import start_by_label
from mfscsn.network import COMMON_SPACE, Architecture
from mfscsn.riemann import n_views
from mfscsn.split import Branch, BranchTrials
from mfscsn.training import Settings, train_round

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


def seconds_of_rounds(body: str, n_trials: int, repetitions: int) -> dict[str, list[float]]:
    """Time a site's round on one thread, on all processors' threads and on a graphics card, in turns.

    Parameters
    ----------
    body : str
        Of the common space.
    n_trials : int
    repetitions : int

    Returns
    -------
    dict
        "thread", "threads" and, where torch sees one, "card": seconds of each repetition. Before them each has a round
        that does not count.
    """
    electrodes = ELECTRODES["motor21"]
    rng = np.random.default_rng(0)
    n_pairs = len(electrodes) * (len(electrodes) + 1) // 2
    form = (n_views(N_TIMES, SFREQ, None), n_pairs) if body == "tangent" else (len(electrodes), N_TIMES)
    signals = rng.standard_normal((n_trials, *form)).astype(np.float32)
    trials = {"any": BranchTrials(signals, np.arange(n_trials) % 2, LABELS)}
    sides: dict[str, Callable[[], object]] = {}
    for name, threads, device in (
        ("thread", 1, "cpu"),
        ("threads", len(os.sched_getaffinity(0)), "cpu"),
        ("card", 1, "cuda"),
    ):
        if device == "cuda" and not torch.cuda.is_available():
            continue
        network = Architecture(N_TIMES, SFREQ, COMMON_SPACE, electrodes=electrodes, body=body).build(
            {"any": Branch(len(electrodes), 2, LABELS)}
        )
        start_by_label(network.head("any"), LABELS, 0)
        network.anchor_heads()

        def one_round(network=network, threads=threads, device=device) -> None:  # type: ignore[no-untyped-def]
            torch.set_num_threads(threads)
            train_round(network, trials, Settings(rounds=1), seed=0, device=device)

        sides[name] = one_round
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, work in sides.items():
            began = time.perf_counter()
            work()
            if repetition:
                seconds[name].append(time.perf_counter() - began)
    torch.set_num_threads(1)
    return seconds
