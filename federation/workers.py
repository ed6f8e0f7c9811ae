"""Processes of one machine that work side by side: forked from one that has imported all that training needs."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from federation.guard import end_with

# torch's optimisers import its compiler with the first step, which each process would wait for
MODULES = ["federation.client_app", "federation.workers", "torch._dynamo"]
ENVIRONMENT = {
    # The C library gives freed memory back and asks for it again with every step, unless told to keep it (mallopt(3))
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "PYTHONSAFEPATH": "1",  # or `data.py` where the user stands would be taken for our package
}


def start_workers(n_processes: int, threads: int, log: Path | None = None) -> ProcessPoolExecutor:
    """Start a pool whose processes begin at once, leave Ctrl-C to the command, and end with it.

    Parameters
    ----------
    n_processes : int
    threads : int
        Of each process.
    log : Path, optional
        Where all that they print is added; without one they print here.
    """
    warm_up(threads)
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(n_processes, context, initializer=_begin, initargs=(threads, log, os.getpid()))
    with nameless_main():
        # All of them here: else each starts with a later task, and imports the caller's file
        pool._launch_processes()  # type: ignore[attr-defined]
    return pool


def warm_up(threads: int, *modules: str) -> None:
    """Have the process that others are forked from import what they need, while this one goes on.

    Parameters
    ----------
    threads : int
        Of each process: how sums are rounded depends on it, in torch and in numpy.
    modules : str
        To import besides those of training.
    """
    of_threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    multiprocessing.get_context("forkserver").set_forkserver_preload([*MODULES, *modules])
    with _environment({**ENVIRONMENT, **of_threads}), nameless_main():
        forkserver.ensure_running()


def cool_down() -> None:
    """End the process that others are forked from, and give back what it has imported; `warm_up` starts another."""
    server: Any = forkserver
    server._forkserver._stop()  # Python has no public way; it waits for the process


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for what is started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def nameless_main() -> Iterator[None]:
    """Hide the file that Python was started with: each process would import all of it, the command line again."""
    main = vars(sys.modules["__main__"])
    file = main.pop("__file__", None)
    try:
        yield
    finally:
        if file is not None:
            main["__file__"] = file


def stop_workers(pool: ProcessPoolExecutor) -> None:
    """End a pool at once, whatever its processes are doing."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    if (answers := pool._result_queue) is not None:
        answers._writer.close()  # type: ignore[attr-defined]  # or an answer cut short by a kill is waited for for ever
    pool.shutdown(cancel_futures=True)


def n_at_once(threads: int, n_tasks: int) -> int:
    """Return how many processes of so many threads fill this machine's cores, and are of use."""
    return max(1, min(n_tasks, len(os.sched_getaffinity(0)) // threads))


def _begin(threads: int, log: Path | None, command: int) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's affair
    end_with(command)
    torch.set_num_threads(threads)
    if log is not None:
        with log.open("ab") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
