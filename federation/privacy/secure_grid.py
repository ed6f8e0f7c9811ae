"""Secure aggregation at the server: around Flower's grid, a round's replies become one secure mean.

The strategy above sees replies as ever, one of each site that took part to the end; but all of them hold the same
layers, the mean. What a single site sent stays masked. The protocol's stages are Flower's but for the last one, which
takes away masks of our own making; mended are their failures: a site that drops out before it has shared its secrets is
no longer named later, and too few sites end the round.
"""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray

from federation.contract import Contract
from federation.flower_internals.common import bytes_to_private_key, bytes_to_public_key
from federation.flower_internals.secure_sum import (
    RECORD_KEY_CONFIGS,
    Code,
    FitIns,
    FitRes,
    Key,
    Parameters,
    Stage,
    Status,
    bytes_to_ndarray,
    combine_shares,
    fitres_to_recorddict,
    generate_shared_key,
)
from federation.flower_internals.secure_workflow import (
    MAIN_CONFIGS_RECORD,
    MAIN_PARAMS_RECORD,
    SecAggPlusWorkflow,
    WorkflowKey,
    WorkflowState,
)
from federation.messages import COMMON, CONFIG, METRICS, N_TRIALS, REFUSALS, SITE, SITE_FAILED, cleaned
from federation.privacy import secagg


class SecureGrid:
    """A grid whose training rounds are secure sums; everything else passes through.

    Parameters
    ----------
    grid : Grid
    contract : Contract
        Its weighting, and the fewest sites that a sum may be of.
    failed : type of exception
        Raised, with a line that says why, when a round cannot be summed.
    tell : callable
        Called after each round with the number of sites summed and the bound of the quantisation error.
    """

    def __init__(
        self,
        grid: Any,
        contract: Contract,
        failed: type[Exception],
        tell: Callable[[int, float], None] = lambda *_: None,
    ):
        self.grid, self.weighting, self.failed, self.tell = grid, contract.weighting, failed, tell
        self.how = secagg.carried(contract)
        self.fewest = contract.min_sites

    def __getattr__(self, name: str) -> Any:
        return getattr(self.grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages; those that ask for training go through the protocol, and `timeout` is of each stage."""
        sent = list(messages)
        if not sent or sent[0].metadata.message_type != MessageType.TRAIN:
            replies: Iterable[Message] = self.grid.send_and_receive(sent, timeout=timeout)
            return replies
        return _Round(self, sent, timeout).replies()


class SecureSum(SecAggPlusWorkflow):
    """Flower's workflow with an unmasking of ours: the masks are `secagg.stream_mask`'s.

    After `unmask_stage`, `change` is the weighted mean of the sites' vectors, and `weights` the sum of their weights,
    each over the largest.
    """

    change: NDArray[np.floating]
    weights: float

    def unmask_stage(self, grid: Any, context: Any, state: WorkflowState) -> bool:
        """Ask for shares of secrets, rebuild each secret, and take the masks that come from it off the sum."""
        summed, gone = set(state.active_node_ids), state.sampled_node_ids - state.active_node_ids
        shares = self._ask_for_shares(grid, context, state, summed, gone)
        total = state.aggregate_ndarrays
        shapes = [part.shape for part in total]
        for node in sorted(state.sampled_node_ids):
            if len(shares.get(node, [])) < state.threshold:
                return False
            secret = combine_shares(shares[node])
            if node in summed:  # its own mask; those that it has with others cancel out
                total = _moved(total, secagg.stream_mask(secret, state.mod_range, shapes), -1)
                continue
            for other in state.nid_to_neighbours[node] & summed:  # what they added, or took, for one that is gone
                key = bytes_to_public_key(state.nid_to_publickeys[other][0])
                mask = secagg.stream_mask(
                    generate_shared_key(bytes_to_private_key(secret), key), state.mod_range, shapes
                )
                total = _moved(total, mask, 1 if node > other else -1)
        quantised_weights, vector = (part & (state.mod_range - 1) for part in total)
        levels, clip = state.quantization_range, state.clipping_range
        self.weights = float(quantised_weights[0]) / levels
        above = vector - len(summed) * (levels // 2)  # whole numbers first: a float has 53 bits
        self.change = above * (2 * clip / levels) / self.weights
        return True

    def _ask_for_shares(
        self, grid: Any, context: Any, state: WorkflowState, summed: set[int], gone: set[int]
    ) -> dict[int, list[bytes]]:
        asked = []
        for node in sorted(summed):
            neighbours = state.nid_to_neighbours[node]
            lists = {
                Key.ACTIVE_NODE_ID_LIST: sorted(neighbours & summed),
                Key.DEAD_NODE_ID_LIST: sorted(neighbours & gone),
            }
            content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({Key.STAGE: Stage.UNMASK, **lists})})
            asked.append(Message(content, dst_node_id=node, message_type=MessageType.TRAIN))
        shares: dict[int, list[bytes]] = {}
        state.active_node_ids = set()
        for reply in grid.send_and_receive(asked, timeout=self.timeout):
            if reply.has_error():
                continue
            state.active_node_ids.add(reply.metadata.src_node_id)
            told = reply.content.config_records[RECORD_KEY_CONFIGS]
            for owner, share in zip(told[Key.NODE_ID_LIST], told[Key.SHARE_LIST], strict=True):
                shares.setdefault(owner, []).append(share)
        return shares


def _moved(total: list[NDArray[np.int64]], mask: list[NDArray[np.int64]], sign: int) -> list[NDArray[np.int64]]:
    return [part + sign * of_mask for part, of_mask in zip(total, mask, strict=True)]


class _Round:
    """One round: the stages of Flower's workflow, between which this stands as its grid."""

    def __init__(self, grid: SecureGrid, asked: list[Message], timeout: float | None):
        self.outer, self.asked = grid, {message.metadata.dst_node_id: message for message in asked}
        self.names: dict[int, str] = {}
        self.faults: dict[int, Message] = {}
        self.size = 0
        n_sites = len(asked)
        if n_sites >= (most := grid.how.modulus // grid.how.levels):
            raise grid.failed(f"secure aggregation: {n_sites} sites; fewer than {most} can be summed")
        self.workflow = SecureSum(
            1.0,  # every site shares its secrets with all
            secagg.threshold(n_sites),
            max_weight=secagg.largest_weight(grid.weighting),
            clipping_range=grid.how.clip,
            quantization_range=grid.how.levels,
            modulus_range=grid.how.modulus,
            timeout=timeout,
        )

    def replies(self) -> list[Message]:
        state, context = WorkflowState(), self._context()
        before = {name: array.numpy() for name, array in self._first.content.array_records[COMMON].items()}
        self.size = sum(values.size for values in before.values())
        self._do(self.workflow.setup_stage, context, state, "gave their keys")
        state.nid_to_fitins = {node: RecordDict() for node in state.nid_to_fitins}
        self._do(self.workflow.share_keys_stage, context, state, "shared their secrets")
        # Nobody holds a secret of those that are gone by now, so nobody's mask is of them
        state.sampled_node_ids = set(state.active_node_ids)
        state.nid_to_neighbours = {
            node: neighbours & state.active_node_ids
            for node, neighbours in state.nid_to_neighbours.items()
            if node in state.active_node_ids
        }
        self._do(self.workflow.collect_masked_vectors_stage, context, state, "sent a masked update")
        summed = sorted(state.active_node_ids)
        # Before the sum is uncovered: a second sum of the round, with one site more, would tell that site's update
        if self.outer.fewest is not None and len(summed) < self.outer.fewest:
            raise self.outer.failed(
                f"secure aggregation: {len(summed)} of {len(self.asked)} sites sent a masked update, min_sites is"
                f" {self.outer.fewest}; nothing of this round was uncovered"
            )
        self._do(self.workflow.unmask_stage, context, state, "were there to uncover the sum")
        layers = secagg.added(before, self.workflow.change)
        self.outer.tell(len(summed), secagg.quantisation_error(self.workflow.weights, len(summed), self.outer.how))
        summed_replies = [
            Message(
                RecordDict(
                    {
                        COMMON: ArrayRecord(layers),
                        METRICS: MetricRecord({N_TRIALS: 1}),
                        SITE: ConfigRecord({"name": self.names[node]}),
                    }
                ),
                reply_to=self.asked[node],
            )
            for node in summed
        ]
        return summed_replies + [fault for node, fault in self.faults.items() if node not in summed]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send a stage's messages with what our sites need to know, and check what comes back."""
        sent = {message.metadata.dst_node_id: message for message in messages}
        stage = ""
        for node, message in sent.items():
            asks = message.content.config_records[RECORD_KEY_CONFIGS]
            content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(dict(asks))})
            content[CONFIG] = ConfigRecord(dict(self.asked[node].content.config_records[CONFIG]))
            stage = str(asks[Key.STAGE])
            if stage == Stage.COLLECT_MASKED_VECTORS:
                content[COMMON] = self.asked[node].content.array_records[COMMON]
            message.content = content
        replies = []
        for reply in self.outer.grid.send_and_receive(list(sent.values()), timeout=timeout):
            node = reply.metadata.src_node_id
            if node not in sent:
                continue
            if reply.has_content() and not self._holds(reply, node, stage):
                reply = Message(Error(SITE_FAILED, REFUSALS[SITE_FAILED]), reply_to=sent[node])
            if reply.has_error():
                self.faults[node] = reply
            replies.append(reply)
        return replies

    def _holds(self, reply: Message, node: int, stage: str) -> bool:
        """Return whether a reply is what the stage asks for; make it what Flower's workflow reads."""
        try:
            if set(reply.content) != {RECORD_KEY_CONFIGS, SITE}:
                return False
            self.names[node] = cleaned(str(reply.content.config_records[SITE]["name"]))
            if stage == Stage.COLLECT_MASKED_VECTORS:
                sent = reply.content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
                factor, vector = (bytes_to_ndarray(part) for part in sent)  # type: ignore[union-attr, arg-type]
                if not (factor.shape == (1,) and vector.shape == (self.size,)):
                    return False
                if any(
                    a.dtype != np.int64 or (a < 0).any() or (a >= self.outer.how.modulus).any()
                    for a in (factor, vector)
                ):
                    return False
                nothing = FitRes(Status(Code.OK, ""), Parameters([], ""), 1, {})
                for key, record in fitres_to_recorddict(nothing, keep_input=False).items():
                    reply.content[key] = record
        except Exception:  # whatever a site sends, it can only leave itself out
            return False
        return True

    def _do(self, stage: Callable[..., bool], context: Any, state: WorkflowState, what: str) -> None:
        went_well = stage(self, context, state)
        there, needed = len(state.active_node_ids), self.workflow.reconstruction_threshold
        if not went_well or there < needed:
            raise self.outer.failed(
                f"secure aggregation: {there} of {len(self.asked)} sites {what}, at least {needed} must; nothing of"
                f" this round was uncovered{self._why()}"
            )

    def _why(self) -> str:
        """Name the sites that refused, with their own fixed words."""
        told = [
            f"{self.names.get(node, f'node {node}')} {REFUSALS.get(fault.error.code, 'failed')}"
            for node, fault in sorted(self.faults.items())
        ]
        return f" ({'; '.join(told)})" if told else ""

    def _context(self) -> Any:
        """Stand in for what Flower's workflow reads its run from."""
        chosen = [(SimpleNamespace(node_id=node), FitIns(Parameters([], ""), {})) for node in self.asked]

        records = RecordDict(
            {
                MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: 1}),
                MAIN_PARAMS_RECORD: ArrayRecord(),
            }
        )
        return SimpleNamespace(
            state=records,
            client_manager=SimpleNamespace(num_available=lambda: len(chosen)),
            strategy=SimpleNamespace(configure_fit=lambda *_: chosen),
        )

    @property
    def _first(self) -> Message:
        return next(iter(self.asked.values()))
