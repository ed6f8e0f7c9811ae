"""Python loads this before anything else where this folder is on PYTHONPATH: so a server, or a site, cheats.

The server's app runs honestly first; then it plays what the file ``attack`` names, with the real grid, and writes down
what it was told. A site that cheats answers with layers and a weight of its choice.
"""

import json
import os
import shutil
import sys
from pathlib import Path

ATTACK, TOLD = "attack", "attacked.json"


def play_server(folder):
    from federation import server_app

    honest = server_app.deploy

    def deploy(grid, run, nodes):
        honest(grid, run, nodes)
        if (folder / ATTACK).exists():
            for site in folder.glob("*/site.toml"):
                shutil.copytree(site.parent / "runs", folder / "before", dirs_exist_ok=True)
            attack = {"lies": lies, "two sums": two_sums}[(folder / ATTACK).read_text()]
            (folder / TOLD).write_text(json.dumps(attack(folder, grid, run, nodes), indent=1))

    server_app.deploy = deploy


def lies(folder, grid, run, nodes):
    """What a server may ask of sites that believe it: earlier rounds, scores of its layers, runs without end."""
    import torch
    from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

    last, layers = run.last_round(), run.load_common(run.last_round())
    chosen = {name: -values for name, values in layers.items()}
    about = {"run": run.run_id, "rounds": last, "contract": run.federation.digest()}

    def ask(kind, layers, number, timeout=60.0, **config):
        words = ConfigRecord({**about, "server-round": number, **config})
        content = RecordDict({"common": ArrayRecord(layers), "config": words})
        messages = [Message(content, dst_node_id=node, message_type=kind) for node in grid.get_node_ids()]
        for reply in grid.send_and_receive(messages, timeout=timeout):
            if not reply.has_error():
                return dict(reply.content.metric_records["metrics"])
            known = folder.glob("*/**/failure.txt")  # at the site, which tells the server a number alone
            return [reply.error.code, max(known, key=lambda path: path.stat().st_mtime).read_text()]
        return None

    first, second = f"{1:032x}", f"{2:032x}"
    return {
        "round 1 again": ask("train", layers, 1),
        "a round after the last": ask("train", layers, last + 1),
        "scores of other layers": ask("evaluate", chosen, last),
        "scores of round 1": ask("evaluate", layers, 1),
        "an invented run": [ask("train", chosen, number, run=first) for number in range(1, last + 1)],
        "its scores": ask("evaluate", chosen, last, run=first),
        "a second one": ask("train", chosen, 1, run=second),
        "a run outside": ask("train", chosen, 1, run="../../outside"),
        "100 MB": ask("train", {"much": torch.zeros(25_000_000)}, 1, timeout=20.0),
    }


def two_sums(folder, grid, run, nodes):
    """Sum over all but one site what was summed over all: in the newest round again, and in a run that begins alike."""
    from federation.run_folder import RunFolder
    from federation.server_app import federate
    from federation.strategy import RunFailed

    left_out = max(grid.get_node_ids())

    class Without:
        def __getattr__(self, name):
            return getattr(grid, name)

        def send_and_receive(self, messages, *, timeout=None):
            replies = grid.send_and_receive(messages, timeout=timeout)
            return [reply for reply in replies if reply.metadata.src_node_id != left_out]

    told = {}
    alike = RunFolder.create(run.path.with_name("alike"), run.federation, run.store, 1)
    again = RunFolder(shutil.copytree(run.path, run.path.with_name("again")))
    (again.path / "common" / f"round-{again.last_round():04d}.safetensors").unlink()
    for name, played in (("the newest round again", again), ("a run that begins alike", alike)):
        try:
            federate(Without(), played, nodes)
            told[name] = "summed"
        except RunFailed as error:
            told[name] = str(error)
        shutil.rmtree(played.path)
    return told


def play_site():
    from federation import client_app

    honest = client_app._train

    def train(message, *words):
        from flwr.app import ArrayRecord, MetricRecord

        content = honest(message, *words)
        layers = message.content.array_records["common"].to_torch_state_dict()
        content["common"] = ArrayRecord({name: 9 * values for name, values in layers.items()})
        content["metrics"] = MetricRecord({**content.metric_records["metrics"], "num-examples": 9_999_999})
        return content

    client_app._train = train


if "flwr-serverapp" in " ".join(sys.orig_argv):
    play_server(Path(os.environ["CHEATS"]))
elif "forkserver" in " ".join(sys.orig_argv) and "CHEATS" in os.environ:
    play_site()
