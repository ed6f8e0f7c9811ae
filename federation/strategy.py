"""What is ours around Flower's strategies: replies are checked, ordered and counted; completed rounds are kept."""

import logging
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from statistics import median_high, median_low
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, FedTrimmedAvg, Krum

from data.errors import FailedError
from federation.contract import ONE_MESSAGE, Contract
from federation.events import AUDIT, record
from federation.messages import (
    COMMON,
    CONFIG,
    FEWEST,
    MAY_LEAVE,
    METRICS,
    N_TRIALS,
    REFUSALS,
    SCORES_MAY_LEAVE,
    SITE,
    cleaned,
)
from federation.register import read_nodes
from federation.run_folder import RunFolder
from federation.site_network import server_network

MOST_TRIALS = 10_000_000  # a site that says it has more is not believed
# One site does not own the model: how far it may stand out
HEAVY = 10.0  # of its weight, over the median site's; more is counted as so much
# Of its update's length: over the median one (a large site has a hundred steps where a small one has one), or over the
# layers at the start, where that is more
FAR, NEAR = 100.0, 0.01
# An update is none that is so short, over the layers at the start or, where sums begin at zero, by itself: who does not
# move has no say in how far is far
STILL, STILL_SUM = 1e-5, 1e-3
GROWN = 10.0  # of its layers' length, over the layers at the start
REMEMBERED = 20  # updates of the rounds before
NO_ANSWER = "gave no answer: it went away, or took too long"


class RunFailed(FailedError):
    """The run cannot go on: the message is what the user is told."""


class RoundFailed(RunFailed):
    """Too few sites answered well in this round; they may in another try."""


class CheckedStrategy(FedAvg):
    """Mixed in before one of Flower's strategies by `make_strategy`.

    A reply that failed, or whose arrays have other names, other shapes, a value that is not finite or an absurd norm,
    is left out and named in the history; a weight that is far above the median counts as less. Replies are sorted by
    site name before they are averaged, so that sums come out the same. In a deployment `nodes` is the register, which
    binds a site's name to its key.
    """

    run: RunFolder
    nodes: Path | None
    first_round: int
    sent: dict[str, np.ndarray[Any, Any]]
    asked: set[int]
    sites_of_nodes: dict[int, str]
    began: float
    start_norm: float
    lengths: "deque[float]"

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for enough sites, no longer than the round may take; then configure as Flower does."""
        self.began = time.monotonic()
        self.sent = {name: array.numpy() for name, array in arrays.items()}
        needed, deadline = self.run.federation.min_sites, self.run.federation.contract.deadline
        if self.run.federation.contract.secure_aggregation:
            needed = max(needed, FEWEST)
        while (n_connected := len(list(grid.get_node_ids()))) < needed:
            if time.monotonic() - self.began > deadline:
                whose = "min_sites is" if needed == self.run.federation.min_sites else "secure aggregation needs"
                raise RunFailed(f"{n_connected} sites are connected after {deadline:g} s, {whose} {needed}")
            time.sleep(0.5)
        self._describe_run(config)
        messages = list(super().configure_train(self._round(server_round), arrays, config, grid))
        self.asked = {message.metadata.dst_node_id for message in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average what holds, keep the round, and raise RunFailed when too few sites are left."""
        number, seconds = self._round(server_round), round(time.monotonic() - self.began, 3)
        federation = self.run.federation
        good: dict[str, Message] = {}
        asked = {self.sites_of_nodes[node] for node in self.asked if node in self.sites_of_nodes}
        status = {
            site.name: NO_ANSWER if site.name in asked or self.nodes is None else "was not connected"
            for site in federation.site
        }
        timing: dict[str, dict[str, Any]] = {}
        n_bad = 0
        for reply in replies:
            if reply.metadata.src_node_id not in self.asked:  # Flower's own word for a node that went away
                continue
            name, fault = self._name(reply), self._fault(reply)
            if name in good:
                name, fault = f"{name} (node {reply.metadata.src_node_id})", "answered twice"
            status[name] = fault or "ok"
            if fault is None:
                good[name] = reply
            elif reply.has_content():
                n_bad += 1

        n_bad += self._leave_out_far(good, status)
        weights = self._weights(good)
        history: list[dict[str, Any]] = []
        for name in sorted(status):
            row: dict[str, Any] = {"round": number, "site": name, "status": status[name]}
            if name in good:
                metrics = dict(good[name].content.metric_records[METRICS])
                seen = federation.contract.weighting == "trials" and not federation.contract.secure_aggregation
                row |= {"n_trials": weights[name] if seen else ""}
                row |= {key: metrics[key] for key in ("loss", "accuracy", "held_out") if key in metrics}
                timing[name] = {"round": number, "site": name, "round_seconds": seconds}
                timing[name] |= {"seconds": metrics.get("seconds", "")}
                # Flower wants the same metrics of all; a site may have kept some to itself
                good[name].content[METRICS] = MetricRecord({N_TRIALS: weights[name]})
            history.append(row)
        if len(good) < federation.min_sites:
            left_out = "; ".join(f"{name}: {fault}" for name, fault in sorted(status.items()) if fault != "ok")
            raise RoundFailed(
                f"round {number}: {len(good)} of {len(federation.site)} sites answered well,"
                f" min_sites is {federation.min_sites} ({left_out})"
            )
        n_byzantine = max(0, federation.contract.n_byzantine - n_bad)  # that may still be among the good ones
        if len(good) < (fewest := federation.contract.fewest_replies(n_bad)):
            raise RoundFailed(
                f"round {number}: {len(good)} sites answered well, {federation.contract.strategy} needs {fewest}"
                f" to bear n_byzantine = {n_byzantine}"
            )
        if isinstance(self, FedTrimmedAvg):  # so many from each end, however many sites are there
            self.beta = (n_byzantine + 0.1) / len(good)
        if isinstance(self, Krum):
            self.num_malicious_nodes = n_byzantine
        # The order decides how sums are rounded: by name, the same reply set gives the same average
        arrays, _ = super().aggregate_train(number, [good[name] for name in sorted(good)])
        assert arrays is not None
        # FedAdam's step comes out in double precision
        layers = {name: torch.from_numpy(array.numpy().astype(self.sent[name].dtype)) for name, array in arrays.items()}
        for name, values in layers.items():
            if not torch.isfinite(values).all():
                raise RoundFailed(f"round {number}: the average of layer {name} is not finite; nothing of it is kept")
        if not federation.contract.secure_aggregation:  # else no site's own layers are seen
            for row in history:
                if row["site"] in good:
                    row["distance"] = _distance(good[row["site"]].content.array_records[COMMON], layers)
        if self.nodes is not None:
            record(self.nodes.parent / AUDIT, "round", run=self.run.path.name, round=number, sites=status)
        self.run.finish_round(number, layers, self._optimiser_state(), history, [timing[name] for name in sorted(good)])
        return ArrayRecord(layers), None

    def _leave_out_far(self, good: dict[str, Message], status: dict[str, str]) -> int:
        """Take replies out whose update is many times as long as those of most sites, of this round and those before.

        Most are more than half of those that moved: of two, neither is far. Return how many were taken out.
        """
        lengths = {name: self._length(reply.content.array_records[COMMON]) for name, reply in good.items()}
        still = STILL * self.start_norm or STILL_SUM
        moved = [length for length in (*self.lengths, *lengths.values()) if length > still]
        if not moved:
            return 0
        typical = median_high(moved)
        most = max(FAR * typical, NEAR * self.start_norm)
        for name, length in lengths.items():
            if length > most:
                status[name] = (
                    f"moved the layers {length / typical:.3g} times as far as sites do, at most {FAR:g} is believed"
                )
                del good[name]
            else:
                self.lengths.append(length)
        return len(lengths) - len(good)

    def _weights(self, good: dict[str, Message]) -> dict[str, int]:
        """Return what each site counts for: what it says, but no more than so many times what the median one says."""
        if self.run.federation.contract.weighting == "equal" or not good:
            return dict.fromkeys(good, 1)
        told = {name: int(reply.content.metric_records[METRICS][N_TRIALS]) for name, reply in good.items()}  # type: ignore[arg-type]
        most = int(HEAVY * median_low(told.values()))
        for name, weight in told.items():
            if weight > most:
                logging.getLogger("flwr").warning("site %s: %d trials count as %d", name, weight, most)
        return {name: min(weight, most) for name, weight in told.items()}

    def _length(self, arrays: ArrayRecord) -> float:
        """Return how far layers are from those that were sent."""
        squares = (np.square(a.numpy().astype(np.float64) - self.sent[name]).sum() for name, a in arrays.items())
        return float(sum(squares) ** 0.5)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send nothing: training metrics travel in the train reply, scores are a stage of their own."""
        return []

    def finish(self, grid: Grid, arrays: ArrayRecord, timeout: float) -> None:
        """Send the last round's layers to all sites that are there, and keep the scores that they let out."""
        config = ConfigRecord({"server-round": self.run.last_round()})
        self._describe_run(config)
        content = RecordDict({COMMON: arrays, CONFIG: config})
        messages = [
            Message(content, dst_node_id=node, message_type=MessageType.EVALUATE) for node in grid.get_node_ids()
        ]
        self.asked = {message.metadata.dst_node_id for message in messages}
        rows: dict[str, dict[str, Any]] = {}
        for reply in grid.send_and_receive(messages, timeout=timeout):
            if reply.metadata.src_node_id in self.asked:
                name, fault = self._name(reply), self._fault(reply, (METRICS, SITE), SCORES_MAY_LEAVE)
                rows[name] = {"status": fault or "ok"}
                if fault is None:
                    rows[name] |= dict(reply.content.metric_records[METRICS])
        names = [site.name for site in self.run.federation.site]
        missing: dict[str, dict[str, Any]] = {name: {"status": "was not there for the last layers"} for name in names}
        self.run.keep_site_scores(missing | rows)

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Take up a server optimiser where a checkpoint left it."""
        for moment in ("m_t", "v_t"):
            kept = {k.partition("/")[2]: v.numpy() for k, v in state.items() if k.startswith(f"{moment}/")}
            if kept:
                setattr(self, moment, kept)

    def _optimiser_state(self) -> dict[str, torch.Tensor]:
        return {
            f"{moment}/{name}": torch.from_numpy(np.ascontiguousarray(value))
            for moment in ("m_t", "v_t")
            for name, value in (getattr(self, moment, None) or {}).items()
        }

    def _round(self, server_round: int) -> int:
        return self.first_round + server_round - 1

    def _describe_run(self, config: ConfigRecord) -> None:
        """Write into a message which run and which contract it belongs to."""
        config["run"] = self.run.run_id
        config["rounds"] = self.run.federation.training.rounds
        config["contract"] = self.run.federation.digest()
        if self.nodes is not None:  # sites come and go
            self.sites_of_nodes = {number: node.site for number, node in read_nodes(self.nodes).items()}

    def _name(self, reply: Message) -> str:
        node = reply.metadata.src_node_id
        if self.nodes is not None:
            return self.sites_of_nodes.get(node, f"node {node}")
        if reply.has_content() and SITE in reply.content.config_records:
            name = str(reply.content.config_records[SITE].get("name", ""))
            if name in {site.name for site in self.run.federation.site}:
                self.sites_of_nodes[node] = name
        elif reply.has_error() and reply.error.reason:
            for site in self.run.federation.site:
                if reply.error.reason.startswith(f"site {site.name!r} "):
                    self.sites_of_nodes[node] = site.name
        return self.sites_of_nodes.get(node, f"node {node}")

    def _fault(
        self, reply: Message, records: tuple[str, ...] = (COMMON, METRICS, SITE), metrics: Iterable[str] = MAY_LEAVE
    ) -> str | None:
        """Return why a reply must be left out, or None."""
        if reply.has_error():
            return REFUSALS.get(reply.error.code, f"failed: Flower's error {reply.error.code}")
        try:
            fault = self._content_fault(reply, records, metrics)
            return fault if fault is None else cleaned(fault)  # it may hold the site's words
        except Exception as error:  # whatever a site sends, it can only leave itself out
            return f"sent what cannot be read ({type(error).__name__})"

    def _content_fault(self, reply: Message, records: tuple[str, ...], allowed: Iterable[str]) -> str | None:
        content = reply.content
        if set(content) != set(records):
            return f"sent the records {sorted(content)}, expected {sorted(records)}"
        metrics = content.metric_records[METRICS]
        unasked = (metrics.keys() - set(allowed)) | (content.config_records[SITE].keys() - {"name"})
        if unasked:
            return f"sent what may not leave a site: {sorted(unasked)}"
        for key, value in metrics.items():
            if key != N_TRIALS and (not isinstance(value, int | float) or not np.isfinite(value)):
                return f"{key} is {str(value)[:40]}, expected a finite number"
        if self.nodes is not None and content.config_records[SITE]["name"] != self._name(reply):
            return "gives itself another name than its key is registered for"
        if COMMON not in records:
            return None
        arrays = content.array_records[COMMON]
        if arrays.keys() != self.sent.keys():
            return f"sent other layers: {sorted(arrays.keys() ^ self.sent.keys())}"
        square = 0.0
        for name, array in arrays.items():
            values, wanted = array.numpy(), self.sent[name].shape
            if values.shape != wanted:
                return f"layer {name} has shape {values.shape}, expected {wanted}"
            if values.dtype != (kind := self.sent[name].dtype) or not np.isfinite(values).all():
                return f"layer {name} holds a value that is not a finite {kind}"
            square += float(np.square(values.astype(np.float64)).sum())
        # Sums begin at zero: there the other sites' alone say what is far
        if self.start_norm and (grown := square**0.5 / self.start_norm) > GROWN:
            return f"sent layers {grown:.3g} times as long as at the start, at most {GROWN:g} is believed"
        weight = metrics.get(N_TRIALS)
        if not isinstance(weight, int) or not 0 < weight <= MOST_TRIALS:
            return f"number of trials is {weight!r}"
        return None


def _distance(arrays: ArrayRecord, average: dict[str, torch.Tensor]) -> float:
    """Return how far a site's layers are from the average, over its norm; six digits."""
    apart = sum(float(np.square(array.numpy() - average[name].numpy()).sum()) for name, array in arrays.items())
    norm = sum(float(layer.double().square().sum()) for layer in average.values())
    return float(f"{(apart / max(norm, 1e-12)) ** 0.5:.6g}")


def _norm(layers: Iterable[torch.Tensor]) -> float:
    return float(sum(float(layer.double().square().sum()) for layer in layers) ** 0.5)


class SumOfSites(FedAvg):
    """The sum of what sites send, once: Flower has no strategy for it."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the replies' layers up."""
        of_sites = list(replies)
        mean, metrics = super().aggregate_train(server_round, of_sites)
        assert mean is not None
        sums = {name: torch.from_numpy(array.numpy() * len(of_sites)) for name, array in mean.items()}
        return ArrayRecord(sums), metrics


def make_strategy(contract: Contract, run: RunFolder, first_round: int, nodes: Path | None = None) -> CheckedStrategy:
    """Put our checks around the contract's strategy; the first round is `first_round`."""
    bases: dict[str, tuple[type[FedAvg], dict[str, Any]]] = {
        "fedavg": (FedAvg, {}),
        "fedprox": (FedProx, {"proximal_mu": contract.proximal_mu}),
        "fedadam": (FedAdam, {"eta": contract.server_lr}),
        "fedmedian": (FedMedian, {}),
        "fedtrimmedavg": (FedTrimmedAvg, {"beta": 0.0}),
        "krum": (Krum, {"num_malicious_nodes": contract.n_byzantine}),
        ONE_MESSAGE: (SumOfSites, {}),
    }
    base, options = bases[contract.strategy]
    # Sites of a deployment come and go: `configure_train` waits for them no longer than the round may take
    needed = run.federation.min_sites if nodes is None else 1
    strategy: CheckedStrategy = type(f"Checked{base.__name__}", (CheckedStrategy, base), {})(
        min_train_nodes=needed,
        min_available_nodes=needed,
        weighted_by_key=N_TRIALS,
        arrayrecord_key=COMMON,
        configrecord_key=CONFIG,
        **options,
    )
    strategy.run, strategy.nodes, strategy.first_round, strategy.sites_of_nodes = run, nodes, first_round, {}
    start = server_network(run.federation).common_state().values()
    strategy.start_norm, strategy.lengths = _norm(start), deque(maxlen=REMEMBERED)
    return strategy
