"""Secure aggregation at a site: the server sees the sum of the sites' updates, and of one site's nothing.

The protocol is SecAgg+ as Flower has it. Ours around it: masks come from a stream cipher, for Flower's generator
folds each seed to 32 bits; a site refuses what the contract does not say; nothing but masked numbers and keys leaves;
and the protocol's secrets are gone when the round is over.

It protects against a server that follows the protocol and reads all that it is sent, as long as fewer than the
threshold of sites tell it their secrets. It does not protect against a server that makes up sites of its own, for
public keys are not authenticated, nor against what the sum itself tells: docs/privacy.md.

References
----------
SecAgg: Bonawitz et al. 2017, ACM CCS. SecAgg+: Bell et al. 2020, ACM CCS.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flwr.app import ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from data.errors import InputError
from federation.contract import ONE_MESSAGE, Contract
from federation.flower_internals.secure_sum import (
    RECORD_KEY_CONFIGS,
    RECORD_KEY_STATE,
    Code,
    FitRes,
    Key,
    Stage,
    Status,
    at_site,
    fitres_to_recorddict,
    ndarrays_to_parameters,
)
from federation.messages import FEWEST
from federation.privacy.randomness import key_stream, secret_uniform


@dataclass(frozen=True)
class Carried:
    """How a secure sum carries numbers: as whole ones, modulo `modulus`.

    Parameters
    ----------
    clip : float
        Greatest size of a number.
    levels : int
        That a number between -`clip` and `clip` may take; `modulus` over it is how many sites may be summed.
    modulus : int
        A power of two, at most 2**62: two of them fit a signed word.
    too_far : str
        What to do about a larger number.
    """

    clip: float
    levels: int
    modulus: int
    too_far: str

    @property
    def unit(self) -> float:
        """The distance of two levels."""
        return 2 * self.clip / self.levels


# Of a difference to the last common layers, weighted; and of sums of squares over all trials of a site
OF_UPDATES = Carried(1.0, 2**22, 2**32, "lower lr or local_epochs")
OF_SUMS = Carried(2.0**20, 2**52, 2**62, "look for artefacts in the recordings")
MOST_TRIALS = 10_000.0  # of a site, where sites weigh by their trials


def threshold(n_sites: int) -> int:
    """Return how many sites must answer to the end, and how many must tell the server a secret to uncover it."""
    return 2 * n_sites // 3 + 1


def carried(contract: Contract) -> Carried:
    """Return how numbers travel under a contract."""
    return OF_SUMS if contract.strategy == ONE_MESSAGE else OF_UPDATES


def largest_weight(weighting: str) -> float:
    """Return the weight that counts as one in the sum."""
    return 1.0 if weighting == "equal" else MOST_TRIALS


def quantisation_error(weights: float, n_sites: int, how: Carried = OF_UPDATES) -> float:
    """Bound how far a value of the secure mean is from the plain one.

    Parameters
    ----------
    weights : float
        Sum of the sites' weights, each over `largest_weight`.
    n_sites : int
    how : Carried
    """
    return n_sites * how.unit / weights


def stream_mask(seed: bytes, num_range: int, dimensions_list: list[tuple[int, ...]]) -> list[NDArray[np.int64]]:
    """Make masks from a seed: ChaCha20's key stream, keyed by HKDF-SHA256 of the whole seed.

    It takes the place of Flower's ``pseudo_rand_gen``, which folds the seed to 32 bits.

    Parameters
    ----------
    seed : bytes
    num_range : int
        A power of two, at most 2**62: masks are uniform from 0 to `num_range` - 1.
    dimensions_list : list of shapes
    """
    if num_range & (num_range - 1) or not 1 < num_range <= 2**62:
        raise ValueError(f"masks are uniform below a power of two up to 2**62, not below {num_range}")
    key = HKDF(hashes.SHA256(), 32, None, b"mfscsn secure aggregation mask").derive(seed)
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in dimensions_list]
    word = 4 if num_range <= 2**32 else 8
    values = np.frombuffer(key_stream(key, word * sum(sizes)), f"<u{word}").astype(np.int64) & (num_range - 1)
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, dimensions_list, strict=True)]


def quantised(
    parameters: Sequence[NDArray[np.floating]], clipping_range: float, target_range: int
) -> list[NDArray[np.int64]]:
    """Bring numbers to whole levels, 0 for -`clipping_range`; one between two goes up or down by its nearness.

    It takes the place of Flower's ``quantize``, which has no more than 2**31 levels, and foreseeable chance.
    """
    whole = []
    for values in parameters:
        places = (np.clip(values, -clipping_range, clipping_range) + clipping_range) * (
            target_range / (2 * clipping_range)
        )
        low = np.floor(places)
        up = secret_uniform(values.size).reshape(values.shape) < places - low
        whole.append(low.astype(np.int64) + up)
    return whole


@contextmanager
def our_numbers() -> Iterator[None]:
    """Have the site's end of Flower's protocol use `stream_mask` and `quantised` for a while: it takes no others."""
    weak = at_site.pseudo_rand_gen, at_site.quantize
    at_site.pseudo_rand_gen, at_site.quantize = stream_mask, quantised
    try:
        yield
    finally:
        at_site.pseudo_rand_gen, at_site.quantize = weak


def flat(layers: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Join layers, by name, to one vector: the protocol spoils arrays without dimensions."""
    return np.concatenate([layers[name].double().numpy().ravel() for name in sorted(layers)])


def added(before: Mapping[str, NDArray[Any]], change: NDArray[np.floating]) -> dict[str, Tensor]:
    """Add the mean change, a vector as `flat` joins it, to the layers that sites were sent."""
    layers, at = {}, 0
    for name in sorted(before):
        values = before[name].astype(np.float64)
        layers[name] = torch.from_numpy(
            (values + change[at : at + values.size].reshape(values.shape)).astype(before[name].dtype)
        )
        at += values.size
    return {name: layers[name] for name in before}


def answer_stage(
    message: Message,
    context: Context,
    contract: Contract,
    train: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Tensor], int]],
    uncovers: Callable[[Sequence[int]], None],
) -> RecordDict:
    """Answer one stage of the protocol at a site.

    Parameters
    ----------
    message : Message
        With the stage's configuration in it.
    context : Context
        Keeps the protocol's secrets between stages.
    contract : Contract
    train : callable
        Trains the round; gives the common layers before and after it, and the site's weight.
    uncovers : callable
        Told before the last stage which nodes' sum it will uncover; raises where that may not be.

    Raises
    ------
    InputError
        When the server asks for what the contract does not say, or an update is beyond what can be sent.
    """
    if RECORD_KEY_CONFIGS not in message.content:
        raise InputError("the server asks for a plain update, but the contract says secure aggregation; refused")
    asked = message.content.config_records[RECORD_KEY_CONFIGS]
    _check_asked(asked, context, contract)
    over, how = asked[Key.STAGE] == Stage.UNMASK, carried(contract)
    if over:
        uncovers(asked[Key.ACTIVE_NODE_ID_LIST])  # type: ignore[arg-type]

    def trained(message: Message, context: Context) -> Message:
        before, after, weight = train()
        change = flat(after) - flat(before)
        share = weight / largest_weight(contract.weighting)
        if share > 1:
            raise InputError(
                f"{weight} trials are more than the {MOST_TRIALS:g} of secure aggregation; weighting = 'equal'"
            )
        if (far := float(np.abs(change).max())) > how.clip:
            raise InputError(
                f"an update moved a value of the common layers by {far:.3g}, secure aggregation carries {how.clip:g} at"
                f" most; {how.too_far}"
            )
        fit = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([change]), weight, {})
        return Message(fitres_to_recorddict(fit, keep_input=False), reply_to=message)

    with our_numbers():
        reply = at_site.secaggplus_mod(message, context, trained)
    if over:
        context.state.config_records.pop(RECORD_KEY_STATE, None)
    # Of the reply, only the protocol's own part: Flower's mod leaves the number of trials beside it, in clear
    return RecordDict({RECORD_KEY_CONFIGS: reply.content.config_records[RECORD_KEY_CONFIGS]})


def _check_asked(asked: ConfigRecord, context: Context, contract: Contract) -> None:
    how = carried(contract)
    stage = asked.get(Key.STAGE)
    if stage == Stage.SETUP:
        n_sites = asked.get(Key.SAMPLE_NUMBER)
        if not isinstance(n_sites, int) or n_sites < FEWEST:
            raise InputError(
                f"the server asks for a secure sum of {n_sites!r} sites, at least {FEWEST} hide one another"
            )
        agreed: dict[str, Any] = {
            Key.SHARE_NUMBER: n_sites,
            Key.THRESHOLD: threshold(n_sites),
            Key.CLIPPING_RANGE: how.clip,
            Key.TARGET_RANGE: how.levels,
            Key.MOD_RANGE: how.modulus,
            Key.MAX_WEIGHT: largest_weight(contract.weighting),
        }
        for key, value in agreed.items():
            if asked.get(key) != value:
                raise InputError(f"the server asks for {key} = {asked.get(key)!r} in secure aggregation, not {value}")
    elif stage == Stage.UNMASK:
        kept = context.state.config_records.get(RECORD_KEY_STATE, ConfigRecord())
        known = set(kept.get("rd_seed_share_dict:K", []))  # type: ignore[arg-type]
        alive, gone = (asked.get(key, []) for key in (Key.ACTIVE_NODE_ID_LIST, Key.DEAD_NODE_ID_LIST))
        both = [*alive, *gone]  # type: ignore[misc]
        if len(set(both)) != len(both) or not set(both) <= known:
            raise InputError("the server asks for both secrets of a site, which would uncover its update; refused")
