"""Audit: one site is Byzantine. What is left of the others' scores, and which of Flower's averages bears it?"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Message

from data.store import relabelled_store
from experiments.simulate import flower_logs_to
from federation.contract import Federation, Site
from federation.local_grid import LocalGrid
from federation.messages import COMMON, SITE
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.site_scores import mean_score
from federation.strategy import FAR

STRATEGIES = ("fedavg", "fedmedian", "fedtrimmedavg", "krum")
ATTACKS = ("none", "sign flipped", "scaled", "random", "labels flipped")
SCALE = FAR / 2  # of an update that is turned round, made longer, or random: at first the server believes it


class GridWithByzantineSite(LocalGrid):
    """A grid in which one site's updates are spoiled on their way."""

    byzantine = ""
    attack = ATTACKS[0]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages, and spoil one reply."""
        sent = list(messages)
        if not sent:
            return []
        layers = sent[0].content.array_records[COMMON]
        before = {name: torch.from_numpy(array.numpy()) for name, array in layers.items()}
        replies = super().send_and_receive(sent, timeout=timeout)
        for reply in replies:
            if reply.has_content() and reply.content.config_records[SITE]["name"] == self.byzantine:
                after = reply.content.array_records[COMMON].to_torch_state_dict()
                reply.content[COMMON] = ArrayRecord(spoiled(before, after, self.attack, next(self.numbers)))
        return replies


def spoiled(before: Any, after: Any, attack: str, seed: int) -> dict[str, torch.Tensor]:
    """Return what a Byzantine site sends in place of what it trained: as bad as the server's checks let through."""
    generator, layers = torch.Generator().manual_seed(seed), {}
    for name in before:
        change = after[name] - before[name]
        if attack == "sign flipped":
            change = -SCALE * change
        elif attack == "scaled":
            change = SCALE * change
        elif attack == "random":
            noise = torch.randn(change.shape, generator=generator)
            change = SCALE * noise * change.norm() / noise.norm()
        layers[name] = before[name] + change
    return layers


def score_beside(federation: Federation, store: Path, byzantine: Site, attack: str, strategy: str, work: Path) -> float:
    """Train a federation in which one site is Byzantine; return the others' mean balanced accuracy.

    Parameters
    ----------
    federation : Federation
        Its trials are prepared under `store`.
    byzantine : Site
        One of its sites.
    attack : str
        Of `ATTACKS`.
    strategy : str
        Of `STRATEGIES`.
    work : Path
        A folder that is not there yet.
    """
    if attack == "labels flipped":
        flipped_store(store, work / "store", federation, byzantine)
        store = work / "store"
    contract = federation.contract.model_copy(update={"strategy": strategy, "n_byzantine": 1})
    run = RunFolder.create(work / "run", federation.model_copy(update={"contract": contract}), store, 1)
    config = {"run": str(run.path), "store": str(store), "threads": 1, "nodes": ""}
    log = run.path / "flower.log"
    with flower_logs_to(log), GridWithByzantineSite(len(federation.site), config, 1, log) as grid:
        grid.byzantine, grid.attack = byzantine.name, attack
        federate(grid, run)
    scores = [mean_score(run, site) for site in federation.site if site.name != byzantine.name]
    return float(np.mean([score["balanced_accuracy"] for score in scores if score]))


def flipped_store(store: Path, out: Path, federation: Federation, byzantine: Site) -> None:
    """Copy prepared trials with each label of one site's subjects replaced by the next of their labels."""
    flipped: dict[tuple[str, str], dict[str, str]] = {}
    for dataset in byzantine.dataset:
        labels = list(dataset.labels(federation.contract))
        following = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
        folder = dataset.recipe(federation.contract).folder(store).name
        flipped |= {(folder, subject): following for subject in dataset.subjects or []}

    def relabel(folder: str, subject: str, labels: Any, runs: Any) -> Any:
        following = flipped.get((folder, subject), {})
        return np.array([following.get(label, label) for label in labels.tolist()])

    relabelled_store(store, out, relabel)
