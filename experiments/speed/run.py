"""Speed: what training costs, side by side with a rival in one run; medians of repetitions that take turns.

Ratios are of paired repetitions, so that a machine which is busy, or grows warm, slows both sides alike.
"""

import itertools
import shutil
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.prepare import prepare_sites
from experiments.progress import Progress
from experiments.simulate import flower_logs_to, train_rounds, train_through_flower
from experiments.speed.decoding import seconds_of_decoding
from experiments.speed.device import CASES, rounds
from federation.contract import Federation, load_federation
from federation.plain_loop import train_together
from federation.run_folder import RunFolder
from federation.workers import start_workers, stop_workers
from mfscsn.branch import Branch
from mfscsn.common_space import ELECTRODES
from mfscsn.network import Architecture, ExtractorAlone, SeparateCommonSeparate
from mfscsn.riemann import n_views

BATCH, SFREQ = 60, 250.0
GEOMETRIES = ((64, 640), (22, 1000))  # channels, samples of a trial
TURN = 0.5  # seconds of the processor that a side's steps have in a turn, at least
TURNS = 3  # of steps, for each repetition of longer things
N_SITES = (10, 30, 100)
MANY_ROUNDS = 6


@dataclass(frozen=True)
class Row:
    """One measurement: ours, in `unit`, and the rival's beside it.

    `ratio` is paired, and above 1 where it is in our favour: the rival's seconds or bytes over ours, our rate over its.
    """

    part: str
    what: str
    ours: float
    unit: str
    rival: float | None = None
    against: str = ""
    ratio: float | None = None


def in_turns(
    sides: Mapping[str, Callable[[], object]],
    repetitions: int,
    turn: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time several things in turns, after one turn that does not count: name -> seconds of each repetition.

    With a `turn` in seconds, each side is called again until its turn has lasted that long, so that quick and slow
    sides see as much of a machine that others use too; the mean of its calls counts, and a first call more does not:
    in training, too, a step follows a step of its own kind, and finds its memory where it left it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, work in sides.items():
            if turn:
                work()
            began, calls = clock(), 0
            while calls == 0 or clock() - began < turn:
                work()
                calls += 1
            if repetition:
                seconds[name].append((clock() - began) / calls)
    return seconds


def ratio(seconds: Mapping[str, list[float]], rival: str, ours: str) -> float:
    """Return the median over repetitions of how many times longer the rival took."""
    return statistics.median(b / a for a, b in zip(seconds[ours], seconds[rival], strict=True))


class _RoundEnds:
    """Note when rounds ended, as whoever watches a run."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(self, step: Progress) -> None:
        if step.done:
            self.seen.append(time.perf_counter())


class PlainShallow(nn.Module):
    """The shallow network as two convolutions, one after another: the form of the paper and of the BEETL start kit."""

    def __init__(self, n_chans: int, n_times: int, n_outputs: int, kernel: int, pool: int, stride: int):
        super().__init__()
        self.temporal, self.spatial = nn.Conv2d(1, 40, (1, kernel)), nn.Conv2d(40, 40, (n_chans, 1), bias=False)
        self.norm, self.drop, self.pool, self.stride = nn.BatchNorm2d(40), nn.Dropout(0.5), pool, stride
        self.classifier = nn.Linear(40 * ((n_times - kernel + 1 - pool) // stride + 1), n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map signals ``(batch, n_chans, n_times)`` to logits."""
        x = self.norm(self.spatial(self.temporal(x.unsqueeze(1)))).squeeze(2)
        x = torch.log(F.avg_pool1d(x * x, self.pool, self.stride).clamp(min=1e-6))
        out: Tensor = self.classifier(self.drop(x).flatten(1))
        return out


def steps(repetitions: int) -> Iterator[Row]:
    """Time training steps and inference of the extractors, on one thread, by the processor's clock."""
    with _training_process() as call:
        for n_chans, n_times in GEOMETRIES:
            for measured in (_shallow, _riemann):
                yield from call(measured, n_chans, n_times, repetitions)
        yield from call(_common_space, 416, repetitions)


def _common_space(n_times: int, repetitions: int) -> list[Row]:
    electrodes, sfreq = ELECTRODES["motor21"], 128.0
    architecture = Architecture(n_times, sfreq, extractor="common-space", electrodes=electrodes)
    ours = architecture.build({"": Branch(len(electrodes), 4)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from braindecode.models import EEGNet

        theirs = EEGNet(
            len(electrodes), 4, n_times=n_times, F1=16, D=2, F2=32, kernel_length=64, depthwise_kernel_length=16
        )
    x, y = torch.randn(32, len(electrodes), n_times), torch.randint(0, 4, (32,))
    sides = {
        "ours": _step(lambda signals: ours(signals, ""), ours, x, y),
        "braindecode": _step(theirs, theirs, x, y),
    }
    name = f"common space, EEGNet, training step, 32 trials of {len(electrodes)} x {n_times}"
    return [_paired_row("step", name, _steps_in_turns(sides, repetitions), "braindecode", 1e3, "ms")]


def _shallow(n_chans: int, n_times: int, repetitions: int) -> list[Row]:
    shape = f"{BATCH} trials of {n_chans} x {n_times}"
    ours = ExtractorAlone(Architecture(n_times, SFREQ, "shallow"), {"": Branch(n_chans, 4)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from braindecode.models import ShallowFBCSPNet

        theirs = ShallowFBCSPNet(n_chans, 4, n_times=n_times, sfreq=SFREQ, final_conv_length="auto")
    kernel = round(0.1 * SFREQ)
    plain = PlainShallow(n_chans, n_times, 4, kernel, round(0.3 * SFREQ), round(0.06 * SFREQ))
    x, y, square = torch.randn(BATCH, n_chans, n_times), torch.randint(0, 4, (BATCH,)), torch.randn(1024, 1024)
    forward: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": lambda signals: ours(signals, ""),
        "braindecode": theirs,
        "start kit": plain,
    }
    networks = {"ours": ours, "braindecode": theirs, "start kit": plain}
    sides = {name: _step(forward[name], networks[name], x, y) for name in networks}
    seconds = _steps_in_turns({**sides, "product": lambda: square @ square}, repetitions)
    rivals = ("braindecode", "start kit")
    rows = [_paired_row("step", f"shallow, training step, {shape}", seconds, rival, 1e3, "ms") for rival in rivals]
    # Of the plain fused convolution: once forward, once for the weights' gradient
    flops = 2 * 2 * BATCH * 40 * n_chans * kernel * (n_times - kernel + 1)
    reached = [flops / a / 1e9 for a in seconds["ours"]]
    limit = [2 * 1024**3 / b / 1e9 for b in seconds["product"]]
    share = statistics.median(a / b for a, b in zip(reached, limit, strict=True))
    name = f"the same, as work of the direct convolution, {n_chans} x {n_times}"
    medians = statistics.median(reached), statistics.median(limit)
    rows.append(Row("step", name, medians[0], "GFLOP/s", medians[1], "a matrix product", share))
    for network in networks.values():
        network.eval()
    seconds = _steps_in_turns({name: _inference(forward[name], x) for name in networks}, repetitions)
    rows += [_paired_row("step", f"shallow, inference, {shape}", seconds, rival, 1e3, "ms") for rival in rivals]
    return rows


def _riemann(n_chans: int, n_times: int, repetitions: int) -> list[Row]:
    network = SeparateCommonSeparate(Architecture(n_times, SFREQ, "riemann"), {"": Branch(n_chans, 4)})
    x, y = torch.randn(BATCH, n_views(n_times, SFREQ), n_chans * (n_chans + 1) // 2), torch.randint(0, 4, (BATCH,))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 50))
    seconds = _steps_in_turns(
        {"ours": _step(lambda vectors: network(vectors, ""), network, x, y), "linear": _step(plain, plain, x, y)},
        repetitions,
    )
    name = f"riemann, training step, {BATCH} trials of {n_chans} x {n_times}, as tangent vectors"
    return [_paired_row("step", name, seconds, "linear", 1e3, "ms")]


def whole_run(federation: Federation, store: Path, work: Path, repetitions: int) -> Iterator[Row]:
    """Time a federation's training: `simulate`, the same in one plain loop, and through Flower's own engine."""
    numbers, rounds = itertools.count(), federation.training.rounds
    per_round: list[float] = []

    def simulated() -> None:
        run, ends = _new_run(federation, store, work / f"run-{next(numbers)}"), _RoundEnds()
        train_rounds(run, ends)
        seen = ends.seen
        per_round.append((seen[-1] - seen[0]) / (rounds - 1))

    def by_engine() -> None:
        train_through_flower(_new_run(federation, store, work / f"run-{next(numbers)}"), lambda step: None)

    with _training_process() as call:
        sides = {"ours": simulated, "plain loop": lambda: call(_plain_loop, federation, store)}
        seconds = in_turns(sides, repetitions)
    name = f"{federation.name}, {federation.contract.extractor}: {rounds} rounds of {len(federation.site)} sites"
    yield _paired_row("run", name, seconds, "plain loop", 1, "s")
    messages = rounds * len(federation.site)
    overhead = [(a - b) / messages for a, b in zip(seconds["ours"], seconds["plain loop"], strict=True)]
    yield Row("run", "the same, more than the plain loop, a message", 1e3 * statistics.median(overhead), "ms")
    in_loop = [b / rounds for b in seconds["plain loop"]]
    yield Row(
        "run", "the same, a round once it goes", 1e3 * statistics.median(per_round), "ms",
        1e3 * statistics.median(in_loop), "plain loop", statistics.median(in_loop) / statistics.median(per_round),
    )  # fmt: skip
    seconds = in_turns({"ours": simulated, "Flower's engine": by_engine}, max(1, repetitions // 2))
    yield _paired_row("run", name, seconds, "Flower's engine", 1, "s")


def preparation(work: Path, repetitions: int) -> Iterator[Row]:
    """Time the way from recordings to trials, against MOABB's own, on recordings that lie in memory."""
    from moabb.paradigms import MotorImagery

    from data.preprocessing import Preprocessing
    from data.simulated import simulated_dataset
    from data.sources import MoabbSource
    from data.store import Recipe, prepare

    dataset = simulated_dataset("university", {"n_subjects": 3, "n_runs": 2})
    recorded = {subject: dataset.get_data([subject])[subject] for subject in dataset.subject_list}

    def of_subject(subject: int) -> dict[str, dict[str, Any]]:  # simulating them is no preparation
        return {session: {run: raw.copy() for run, raw in runs.items()} for session, runs in recorded[subject].items()}

    dataset._get_single_subject_data = of_subject  # type: ignore[method-assign]
    tasks = {name: name for name in ("left_hand", "right_hand", "feet")}
    how = Preprocessing(sfreq=128.0, window=(0.5, 3.5), band=(4.0, 38.0))
    recipe = Recipe("simulated:university", {}, tasks, None, how)
    source, numbers = MoabbSource(dataset, dataset.parameters), itertools.count()
    paradigm = MotorImagery(events=list(tasks), n_classes=3, fmin=4.0, fmax=38.0, tmin=0.5, tmax=3.5, resample=128.0)

    def ours() -> None:
        prepare(recipe, work / f"store-{next(numbers)}", source, source.subjects())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds = in_turns({"ours": ours, "MOABB": lambda: paradigm.get_data(dataset)}, repetitions)
    n = sum(len(runs) for sessions in recorded.values() for runs in sessions.values())
    medians = {name: n / statistics.median(of_side) for name, of_side in seconds.items()}
    yield Row(
        "prepare", "recordings of 64 channels a second, kept on disk", medians["ours"], "1/s",
        medians["MOABB"], "MOABB, in memory", ratio(seconds, "MOABB", "ours"),
    )  # fmt: skip


def many_sites(work: Path) -> Iterator[Row]:
    """Time messages of federations of many sites, and watch the memory of all their processes."""
    first: float | None = None
    for n_sites in N_SITES:
        federation = prepare_sites(_federation_of(work, n_sites), work / "store")
        ends = _RoundEnds()
        with _memory() as peak:
            train_rounds(_new_run(federation, work / "store", work / f"sites-{n_sites}"), ends)
        seen = ends.seen
        seconds = (seen[-1] - seen[0]) / (MANY_ROUNDS - 1) / n_sites
        first = first or seconds
        yield Row(
            "sites", f"{n_sites} sites: a message", 1e3 * seconds, "ms", 1e3 * first, f"{N_SITES[0]} sites",
            first / seconds,
        )  # fmt: skip
        yield Row("sites", f"{n_sites} sites: peak memory of all processes", peak[0] / 2**30, "GiB")


def message_bytes(federation: Federation, store: Path, work: Path) -> Iterator[Row]:
    """Count what one site is sent and sends in a round, as Flower packs it."""
    from federation.flower_internals.common import get_all_nested_objects
    from federation.local_grid import LocalGrid
    from federation.server_app import federate

    once = federation.model_copy(update={"training": federation.training.model_copy(update={"rounds": 1})})
    run, sizes = _new_run(once, store, work / "bytes"), []

    class Counted(LocalGrid):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            sent = list(messages)
            replies = super().send_and_receive(sent, timeout=timeout)
            for message in (*sent[:1], *replies[:1]):
                objects = get_all_nested_objects(message).values()
                sizes.append(sum(len(value.deflate()) for value in objects))
            return replies

    threads = int(run.environment["threads"])
    config = {"run": str(run.path), "store": str(store), "threads": threads, "nodes": ""}
    log = run.path / "flower.log"
    with flower_logs_to(log), Counted(len(federation.site), config, threads, log) as grid:
        federate(grid, run)
    arrays = 4 * sum(values.numel() for values in run.load_common(1).values())
    name = f"{federation.name}, {federation.contract.extractor}: a round and site, down and up"
    yield Row(
        "bytes", name, sum(sizes) / 1e3, "kB", 2 * arrays / 1e3, "the common arrays twice", 2 * arrays / sum(sizes)
    )


def idle_message(work: Path) -> Iterator[Row]:
    """Time a message at a deployed site, over TLS on this machine, less the work that it asks for."""
    from experiments.speed.deployed import message_seconds

    measured = message_seconds(work / "deployed")
    yield Row(
        "deployed", "a message at a site, start to exit of its process, without its work", *_median(measured.idle)
    )
    yield Row("deployed", "a round, with Flower's own waiting", *_median(measured.rounds))


def one_message(work: Path) -> Iterator[Row]:
    """Time one masked message of nine deployed sites, over TLS on this machine."""
    from experiments.speed.deployed import N_SITES, one_message_seconds

    yield Row(
        "one-message", f"`server train` of {N_SITES} sites, masked, whole", one_message_seconds(work / "sums"), "s"
    )


def decoding(repetitions: int) -> Iterator[Row]:
    """Time the decoding of a trial, of a small and of a large headset."""
    for n_chans in (3, 21, 64):
        seconds = seconds_of_decoding(n_chans, 20 * repetitions)
        yield Row(
            "decode", f"one trial of {n_chans} channels, the mean followed", 1e3 * statistics.median(seconds), "ms"
        )


def rounds_of_a_device(repetitions: int) -> Iterator[Row]:
    """Time a site's round on a graphics card beside the processor, where torch sees a card; else on more threads."""
    for body, n_trials in CASES:
        seconds = in_turns(rounds(body, n_trials), repetitions)
        for ours, what in (("threads", "on all threads"), ("card", "on a graphics card")):
            if ours in seconds:
                sides = {"ours": seconds[ours], "one thread": seconds["thread"]}
                yield _paired_row(
                    "device", f"{body}, a round of {n_trials} trials, {what}", sides, "one thread", 1, "s"
                )
    torch.set_num_threads(1)


PARTS = ("step", "run", "prepare", "sites", "bytes", "decode", "device", "deployed", "one-message")
OF_A_FEDERATION = {"run", "bytes"}  # the parts that need a federation's trials


def measure(parts: Sequence[str], federation: Federation, store: Path, work: Path, repetitions: int) -> Iterator[Row]:
    """Measure what is asked for, part by part.

    Parameters
    ----------
    parts : sequence of str
        Of `PARTS`.
    federation : Federation
        Whose trials are prepared under `store`, for the parts `OF_A_FEDERATION`.
    work : Path
        A folder for runs; nothing in it is needed afterwards.
    repetitions : int
        Of everything that is paired; of steps, `TURNS` times as many.
    """
    torch.set_num_threads(1)
    of_part: dict[str, Callable[[], Iterator[Row]]] = {
        "step": lambda: steps(repetitions),
        "run": lambda: whole_run(federation, store, work, repetitions),
        "prepare": lambda: preparation(work, repetitions),
        "sites": lambda: many_sites(work),
        "bytes": lambda: message_bytes(federation, store, work),
        "decode": lambda: decoding(repetitions),
        "device": lambda: rounds_of_a_device(repetitions),
        "deployed": lambda: idle_message(work),
        "one-message": lambda: one_message(work),
    }
    for part in parts:
        yield from of_part[part]()


@contextmanager
def _training_process() -> Iterator[Callable[..., Any]]:
    """Return a way to call a function in a process like those that train: forked, on one thread, keeping its memory."""
    pool = start_workers(1, threads=1)
    try:
        yield lambda work, *arguments: pool.submit(work, *arguments).result()
    finally:
        stop_workers(pool)


def _plain_loop(federation: Federation, store: Path) -> None:
    train_together(federation, store)


def _median(seconds: list[float]) -> tuple[float, str]:
    return statistics.median(seconds), "s"


def _steps_in_turns(sides: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Time steps on one thread, by the processor's clock: it stands still while another program has the processor."""
    return in_turns(sides, TURNS * repetitions, TURN, time.process_time)


def _step(forward: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(network.parameters())

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(forward(x), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def _inference(forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    @torch.inference_mode()
    def infer() -> None:
        forward(x)

    return infer


def _paired_row(part: str, what: str, seconds: Mapping[str, list[float]], rival: str, scale: float, unit: str) -> Row:
    medians = [scale * statistics.median(seconds[name]) for name in ("ours", rival)]
    return Row(part, what, medians[0], unit, medians[1], rival, ratio(seconds, rival, "ours"))


def _new_run(federation: Federation, store: Path, path: Path) -> RunFolder:
    shutil.rmtree(path, ignore_errors=True)
    return RunFolder.create(path, federation, store, threads=1)


def _federation_of(work: Path, n_sites: int) -> Federation:
    """Configure sites that record one of ten small data sets each."""
    sites = "".join(
        f"""
[[site]]
name = "site-{k}"
[[site.dataset]]
source = "simulated:clinic"
options = {{ n_subjects = 2, n_runs = 2, n_trials = 10, seed = {k % 10} }}
tasks = ["right_hand", "rest"]
targets = [2]
calibration = {{ runs = ["0"] }}
"""
        for k in range(n_sites)
    )
    path = work / f"{n_sites}.toml"
    path.write_text(f'name = "sites-{n_sites}"\n[training]\nrounds = {MANY_ROUNDS}\n{sites}')
    return load_federation(path)


@contextmanager
def _memory() -> Iterator[list[float]]:
    """Watch the memory of this process and all below it, each shared page counted once; return a list with the peak."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not over.wait(0.2):
            total = 0.0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
