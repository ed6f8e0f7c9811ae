"""A tiny federation of two simulated sites, prepared once, and a loop that stands in for Flower's transport."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from experiments.prepare import prepare_sites
from federation import client_app
from federation.contract import Federation, load_federation
from federation.run_folder import RunFolder

SHARED = Path(__file__).resolve().parents[2] / "shared"

TINY = """
name = "tiny"

[contract]
window = [0.5, 2.5]
{contract}

[training]
rounds = 2
batch_size = 8
{training}

[[site]]
name = "north"
{north}

[[site.dataset]]
source = "simulated:clinic"
options = {{ n_subjects = 3, n_runs = 2, n_trials = 4, montage = ["C3", "Cz", "C4", "FC1"], trial_length = 3.0 }}
tasks = ["right_hand", "rest"]
targets = [3]
calibration = {{ runs = ["0"] }}

[[site]]
name = "south"

[[site.dataset]]
source = "simulated:laboratory"
options = {{ n_subjects = 2, n_runs = 2, n_trials = 4, montage = ["C3", "Cz", "C4"], trial_length = 3.0 }}
tasks = ["left_hand", "right_hand", "rest"]
targets = [1, 2]
calibration = {{ first = 12 }}
"""


def tiny_toml(contract: str = "", training: str = "", north: str = "") -> str:
    return TINY.format(contract=contract, training=training, north=north)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """The store of the tiny federation."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "tiny.toml").write_text(tiny_toml())
    prepare_sites(load_federation(folder / "tiny.toml"), folder / "store")
    return folder / "store"


@pytest.fixture
def make_run(tmp_path, prepared):
    """Begin a run of the tiny federation, with changes."""

    def make(name: str = "run", store: Path = prepared, **changes: str) -> RunFolder:
        path = tmp_path / f"{name}.toml"
        path.write_text(tiny_toml(**changes))
        return RunFolder.create(tmp_path / name, load_federation(path), store, 1)

    return make


@pytest.fixture
def tiny_file(tmp_path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_toml())
    return path


@pytest.fixture
def copied_store(tmp_path, prepared) -> Path:
    """A copy of the store that a test may damage."""
    return Path(shutil.copytree(prepared, tmp_path / "store"))


class LoopGrid:
    """Hands each message to the client app in this process; `spoil` may change or drop a reply."""

    def __init__(self, run: RunFolder, spoil=lambda number, site, reply: reply):
        self.run, self.spoil = run, spoil
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0  # as Flower's own processes do
        self.sent: list[Message] = []
        self.replies: list[Message] = []
        self.nodes = {100 + k: k for k in range(len(run.federation.site))}

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for k, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"{len(self.sent)}-{k}"
            self.sent.append(message)
            site = self.nodes[message.metadata.dst_node_id]
            TaskIdentity.node_id = message.metadata.dst_node_id
            context = Context(
                run_id=1,
                node_id=message.metadata.dst_node_id,
                node_config={"partition-id": site, "num-partitions": len(self.nodes)},
                state=RecordDict(),
                run_config={"run": str(self.run.path), "store": str(self.run.store), "threads": 1},
            )
            reply = client_app.app(message, context)
            TaskIdentity.node_id = 0
            number = message.content["config"]["server-round"]
            reply = self.spoil(number, self.run.federation.site[site].name, reply)
            if reply is not None:
                replies.append(reply)
                self.replies.append(reply)
        return replies


def federation_of(text: str, folder: Path) -> Federation:
    path = folder / "federation-under-test.toml"
    path.write_text(text)
    return load_federation(path)
