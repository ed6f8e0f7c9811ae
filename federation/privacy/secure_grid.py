"""Secure aggregation at the server: around Flower's grid, a round's replies become one secure mean.

The strategy above sees replies as ever, one of each site that took part to the end; but all of them hold the same
layers, the mean. What a single site sent stays masked. The protocol's stages are Flower's; mended are their failures:
a site that drops out before it has shared its secrets is no longer named later, and too few sites end the round.
"""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common import Code, FitIns, FitRes, Parameters, Status, bytes_to_ndarray, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState

from federation.messages import COMMON, CONFIG, METRICS, N_TRIALS, REFUSALS, SITE, SITE_FAILED
from federation.privacy import secagg


class SecureGrid:
    """A grid whose training rounds are secure sums; everything else passes through.

    Parameters
    ----------
    grid : Grid
    weighting : {"trials", "equal"}
    failed : type of exception
        Raised, with a line that says why, when a round cannot be summed.
    tell : callable
        Called after each round with the number of sites summed and the bound of the quantisation error.
    """

    def __init__(
        self, grid: Any, weighting: str, failed: type[Exception], tell: Callable[[int, float], None] = lambda *_: None
    ):
        self.grid, self.weighting, self.failed, self.tell = grid, weighting, failed, tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self.grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages; those that ask for training go through the protocol, and `timeout` is of each stage."""
        sent = list(messages)
        if not sent or sent[0].metadata.message_type != MessageType.TRAIN:
            replies: Iterable[Message] = self.grid.send_and_receive(sent, timeout=timeout)
            return replies
        return _Round(self, sent, timeout).replies()


class _Round:
    """One round: the stages of Flower's workflow, between which this stands as its grid."""

    def __init__(self, grid: SecureGrid, asked: list[Message], timeout: float | None):
        self.outer, self.asked = grid, {message.metadata.dst_node_id: message for message in asked}
        self.names: dict[int, str] = {}
        self.faults: dict[int, Message] = {}
        self.size = 0
        self.mean: list[Parameters] = []
        n_sites = len(asked)
        self.workflow = SecAggPlusWorkflow(
            1.0,  # every site shares its secrets with all
            secagg.threshold(n_sites),
            max_weight=secagg.largest_weight(grid.weighting),
            clipping_range=secagg.CLIP,
            quantization_range=secagg.LEVELS,
            modulus_range=secagg.MODULUS,
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
        self._do(self.workflow.unmask_stage, context, state, "were there to uncover the sum")
        (change,) = parameters_to_ndarrays(self.mean[0])
        layers = secagg.added(before, change)
        self.outer.tell(len(summed), secagg.quantisation_error(secagg.last_total_weight(), len(summed)))
        found = [
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
        return found + [fault for node, fault in self.faults.items() if node not in summed]

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
        found = []
        for reply in self.outer.grid.send_and_receive(list(sent.values()), timeout=timeout):
            node = reply.metadata.src_node_id
            if node not in sent:
                continue
            if reply.has_content() and not self._holds(reply, node, stage):
                reply = Message(Error(SITE_FAILED, REFUSALS[SITE_FAILED]), reply_to=sent[node])
            if reply.has_error():
                self.faults[node] = reply
            found.append(reply)
        return found

    def _holds(self, reply: Message, node: int, stage: str) -> bool:
        """Say whether a reply is what the stage asks for; make it what Flower's workflow reads."""
        try:
            if set(reply.content) != {RECORD_KEY_CONFIGS, SITE}:
                return False
            self.names[node] = str(reply.content.config_records[SITE]["name"])
            if stage == Stage.COLLECT_MASKED_VECTORS:
                sent = reply.content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
                factor, vector = (bytes_to_ndarray(part) for part in sent)  # type: ignore[union-attr, arg-type]
                if not (factor.shape == (1,) and vector.shape == (self.size,)):
                    return False
                if any(a.dtype != np.int64 or (a < 0).any() or (a >= secagg.MODULUS).any() for a in (factor, vector)):
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
                " this round was uncovered"
            )

    def _context(self) -> Any:
        """Stand in for what Flower's workflow reads its run from."""
        chosen = [(SimpleNamespace(node_id=node), FitIns(Parameters([], ""), {})) for node in self.asked]

        def aggregate_fit(number: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
            self.mean.append(results[0][1].parameters)
            return None, {}

        records = RecordDict(
            {
                MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: 1}),
                MAIN_PARAMS_RECORD: ArrayRecord(),
            }
        )
        return SimpleNamespace(
            state=records,
            client_manager=SimpleNamespace(num_available=lambda: len(chosen)),
            strategy=SimpleNamespace(configure_fit=lambda *_: chosen, aggregate_fit=aggregate_fit),
        )

    @property
    def _first(self) -> Message:
        return next(iter(self.asked.values()))
