"""A tiny federation of two simulated sites, prepared; a loop in place of Flower's transport; BEETL's files."""

import io
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

os.environ.setdefault("MNE_LOGGING_LEVEL", "ERROR")  # as the command sets it, before anything imports MNE

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from data.beetl import TARGETS, TargetDataset
from data.beetl_simulated import simulate_competition
from experiments.cli.main import main
from experiments.prepare import prepare_sites
from federation import client_app
from federation.contract import Federation, load_federation
from federation.run_folder import RunFolder
from federation.workers import warm_up

torch.set_num_threads(1)  # two workers share the cores
MFSCSN = str(Path(sys.executable).with_name("mfscsn"))
REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"

TINY = """
name = "tiny"

[contract]
window = [0.5, 2.5]
extractor = "{extractor}"
{contract}

[training]
rounds = 2
batch_size = 8
fine_tune = 0
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


def tiny_toml(contract: str = "", training: str = "", north: str = "", extractor: str = "shallow") -> str:
    return TINY.format(contract=contract, training=training, north=north, extractor=extractor)


@pytest.fixture(scope="session", autouse=True)
def fork_server():
    """Start the process that others are forked from in a folder that stays: where its own goes, torch cannot load."""
    warm_up(1)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """The store of the tiny federation."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "tiny.toml").write_text(tiny_toml())
    prepare_sites(load_federation(folder / "tiny.toml"), folder / "store")
    return folder / "store"


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


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
    """A copy of the store that a test may damage, without what was made of it."""
    return Path(shutil.copytree(prepared, tmp_path / "store", ignore=shutil.ignore_patterns("inputs")))


class LoopGrid:
    """Hands each message to the client app in this process; `spoil` may change or drop a reply."""

    def __init__(self, run: RunFolder, spoil=lambda number, site, reply: reply):
        self.run, self.spoil = run, spoil
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0  # as Flower's own processes do
        self.sent: list[Message] = []
        self.replies: list[Message] = []
        self.nodes = {100 + k: k for k in range(len(run.federation.site))}
        self.states = {node: RecordDict() for node in self.nodes}

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
                state=self.states[message.metadata.dst_node_id],
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


def write_bids(root, subjects, runs, channels, sfreq=125.0, names=("left_hand", "right_hand"), n=4, pause=True):
    """Write subjects whose cues are 8 s apart; with `pause`, each is followed by rest."""
    import mne
    import mne_bids

    rng = np.random.default_rng(0)
    for subject in subjects:
        for run in runs:
            info = mne.create_info(channels, sfreq, "eeg", verbose="ERROR")
            info["line_freq"] = 50
            tasks = [name for _ in range(n) for name in names]
            onsets = 2.0 + 8.0 * np.arange(len(tasks))
            length = round(sfreq * (onsets[-1] + 10))
            raw = mne.io.RawArray(1e-5 * rng.normal(size=(len(channels), length)), info, verbose="ERROR")
            marks = mne.Annotations(onsets, 4.0, tasks)
            if pause:
                marks += mne.Annotations(onsets + 4.0, 4.0, "rest")
            raw.set_annotations(marks)
            path = mne_bids.BIDSPath(subject=subject, run=run, task="mi", root=root, datatype="eeg")
            mne_bids.write_raw_bids(raw, path, allow_preload=True, format="EDF", overwrite=True, verbose="ERROR")


EDF_CHANNELS, EDF_SFREQ = ("C3", "Cz", "C4"), 128.0


def raw_of(seed=0, seconds=60, channels=EDF_CHANNELS, cues=True, kinds="eeg"):
    import mne

    rng = np.random.default_rng(seed)
    info = mne.create_info(list(channels), EDF_SFREQ, kinds, verbose="ERROR")
    raw = mne.io.RawArray(1e-5 * rng.normal(size=(len(channels), int(seconds * EDF_SFREQ))), info, verbose="ERROR")
    if cues:
        raw.set_annotations(mne.Annotations(2.0 + 6 * np.arange(8), 3.0, ["left", "right"] * 4))
    return raw


def write_edf(path, seed=0, cues=True, channels=EDF_CHANNELS, bad=False):
    import edfio

    path.parent.mkdir(parents=True, exist_ok=True)
    raw = raw_of(seed, channels=channels, cues=cues)
    if bad:
        raw.annotations.append(20.0, 6.0, "BAD cough")
    signals = [edfio.EdfSignal(1e6 * x, EDF_SFREQ, label=name, physical_dimension="uV") for x, name in
               zip(raw.get_data(), channels, strict=True)]  # fmt: skip
    marks = [edfio.EdfAnnotation(a["onset"], a["duration"], a["description"]) for a in raw.annotations]
    edfio.Edf(signals, annotations=marks).write(path)
    return path


def mfscsn(*words, cwd):
    """Run the command in this process, in a folder: its exit code, what it prints, and its errors."""
    out, err = io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    return ended.value.code, out.getvalue(), err.getvalue()


def refused(*words, cwd):
    code, out, err = mfscsn(*words, cwd=cwd)
    assert code == 2 and "Traceback" not in out + err
    assert len(err.strip().splitlines()) == 1, err
    return err


def planted_trials(target: TargetDataset, person: int, seed: int):
    """Noise with a 10 Hz wave at C3 and C4 that sinks on the far side of the hand imagined; quick to make."""
    rng = np.random.default_rng([seed, person, ord(target.name)])
    n = 300 if target.name == "A" else 320
    blocks = [rng.permutation(np.repeat(np.arange(4), 5)) for _ in range(n // 20)]
    codes = np.concatenate(blocks)
    signals = rng.standard_normal((n, len(target.channels), target.n_times), np.float32)
    seconds = np.arange(target.n_times) / target.sfreq
    depth = {"left_hand": (1.0, 0.2), "right_hand": (0.2, 1.0), "feet": (2.0, 2.0), "rest": (1.0, 1.0)}
    for trial, code in enumerate(codes):
        for channel, strength in zip(("C3", "C4"), depth[target.tasks[code]], strict=True):
            wave = np.sin(2 * np.pi * (10 * seconds + rng.random()))
            signals[trial, target.channels.index(channel)] += (2 * strength * wave).astype(np.float32)
    signals[-200:, target.channels.index("C3")] *= np.float32(1.6)  # an electrode that dried between the parts
    signals *= np.float32(8e-6)
    return signals, codes


@contextmanager
def slow_targets() -> Iterator[None]:
    """Have the competition's targets at 100 Hz as long as the block lasts: as published they are a gigabyte."""
    published = {name: target.sfreq for name, target in TARGETS.items()}
    for target in TARGETS.values():
        object.__setattr__(target, "sfreq", 100.0)
    yield
    for name, sfreq in published.items():
        object.__setattr__(TARGETS[name], "sfreq", sfreq)


@pytest.fixture(scope="module")
def small_targets() -> Iterator[None]:
    with slow_targets():
        yield


@pytest.fixture(scope="session")
def competition(tmp_path_factory) -> Iterator[Path]:
    """A whole competition with planted trials, at 100 Hz; tests must not change it, and use `small_targets`."""
    root = tmp_path_factory.mktemp("beetl") / "competition"
    with slow_targets():
        simulate_competition(root, seed=3, trials=planted_trials)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def linked(tmp_path, competition) -> Path:
    """A copy of the competition that a test may damage by replacing files: its files are links."""
    return Path(shutil.copytree(competition, tmp_path / "linked", copy_function=os.link))
