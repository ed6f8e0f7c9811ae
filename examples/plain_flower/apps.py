"""A federation in plain Flower and `mfscsn` alone: no contract, no store. Copy it and put your trials in.

Usage: python apps.py [N_SITES [ROUNDS]], in this process; or `flwr run .` with a SuperLink of your own.
"""

import sys

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from mfscsn import Alignment, Architecture, Branch, BranchTrials, Settings, train_round

LABELS, HEADSETS = (
    ("left_hand", "right_hand"),
    (("C3", "Cz", "C4"), ("FC3", "C3", "C4", "FC4"), ("C5", "C3", "C4", "C6")),
)
ELECTRODES = ("FC3", "FCz", "FC4", "C5", "C3", "Cz", "C4", "C6", "CP3", "CPz", "CP4")
ARCHITECTURE = Architecture(n_times=256, sfreq=128.0, extractor="common-space", electrodes=ELECTRODES)
ALIGNMENT = Alignment("recentred", 128.0, electrodes=ELECTRODES)
SETTINGS = Settings(rounds=20)

client, server = ClientApp(), ServerApp()


def trials_of(site: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Put your own here: signals ``(n_trials, n_chans, n_times)``, labels by number, channels. These are noise."""
    rng, channels = np.random.default_rng(site), HEADSETS[site % len(HEADSETS)]
    return rng.normal(size=(40, len(channels), 256)), np.arange(40) % 2, channels


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train one round: the common layers come and go, the rest stays in the context."""
    site = int(context.node_config["partition-id"])
    signals, labels, channels = trials_of(site)
    network = ARCHITECTURE.build({"here": Branch(len(channels), 2, LABELS)}, seed=site)
    if "private" in context.state:
        network.load_private(context.state["private"].to_torch_state_dict())
    network.load_common(message.content["arrays"].to_torch_state_dict())
    inputs = ALIGNMENT.fit(signals, channels).inputs(signals, follow=False)
    now = SETTINGS.in_round(int(message.content["config"]["server-round"]))
    log, _ = train_round(network, {"here": BranchTrials(inputs, labels.astype(np.int64), LABELS)}, now, seed=site)
    context.state["private"] = ArrayRecord(network.private_state())
    metrics = MetricRecord({"num-examples": log.n_trials, "loss": log.loss})
    return Message(RecordDict({"arrays": ArrayRecord(network.common_state()), "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Average the common layers alone: Flower's own FedAvg."""
    first = ARCHITECTURE.build({"any": Branch(3, 2, LABELS)}).common_state()
    rounds = int(context.run_config.get("rounds", SETTINGS.rounds))
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(grid, ArrayRecord(first), num_rounds=rounds)
    for number, metrics in result.train_metrics_clientapp.items():
        print(f"round {number}: loss {metrics['loss']:.3f}")


if __name__ == "__main__":
    from flwr.simulation import run_simulation

    n_sites = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    if len(sys.argv) > 2:
        SETTINGS = Settings(rounds=int(sys.argv[2]))
    run_simulation(server, client, n_sites, backend_config={"client_resources": {"num_cpus": 1}})
