"""How long one trial takes to decode: from microvolts to probabilities, its mean followed."""

import time

import numpy as np

from experiments.decoder import Decoder
from federation.common_layers import AdoptableLayers
from federation.contract import Contract, Training
from mfscsn.branch import Branch
from mfscsn.common_space import ELECTRODES
from mfscsn.electrodes import POSITIONS

LABELS, N_SHOWN = ("left_hand", "right_hand"), 15
ALIASES = {"T3", "T4", "T5", "T6", "M1", "M2", "A1", "A2"}


def seconds_of_decoding(n_chans: int, n_trials: int, body: str = "eegnet") -> list[float]:
    """Time trials, one after another, on one thread.

    Parameters
    ----------
    n_chans : int
        At most 64 of the 10-20 system.
    n_trials : int
    body : str
        Of the default contract.
    """
    contract = Contract.model_validate({"body": body})
    network = contract.architecture.build({"any": Branch(n_chans, len(LABELS), LABELS)})
    common = AdoptableLayers(
        name="speed",
        architecture=contract.architecture,
        alignment=contract.alignment_model,
        seed=0,
        layers=network.common_state(),
        contract=contract,
        training=Training(),
    )
    near = ELECTRODES["motor21"]
    others = [name for name in POSITIONS if name not in near and name not in ALIASES]
    channels = ("C3", "Cz", "C4") if n_chans == 3 else (*near, *others)[:n_chans]
    rng = np.random.default_rng(0)
    signals = 10 * rng.normal(size=(N_SHOWN + n_trials, n_chans, contract.preprocessing.n_times))
    decoder = Decoder.of_common(common, channels, LABELS).fit(signals[:N_SHOWN])
    seconds = []
    for trial in signals[N_SHOWN:]:
        began = time.perf_counter()
        decoder.decode(trial)
        seconds.append(time.perf_counter() - began)
    return seconds
