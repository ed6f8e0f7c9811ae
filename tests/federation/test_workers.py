"""Processes that train keep the memory that they have freed for the next step."""

import os
import resource
import struct
import sys
import threading

import torch

from federation.workers import ENVIRONMENT, start_workers, stop_workers

N_STEPS, N_TENSORS, MIB = 10, 30, 8
PAGES = N_TENSORS * MIB * 2**20 // resource.getpagesize()  # of one step


def _page_faults() -> int:
    """Take and free tensors in steps; count the pages that the kernel had to give after the first step."""

    def step() -> None:
        tensors = [torch.ones(MIB * 2**18) for _ in range(N_TENSORS)]
        while tensors:
            tensors.pop()

    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(N_STEPS):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_step_asks_for_no_memory_that_the_one_before_has_freed():
    pool = start_workers(1, threads=1)
    try:
        assert pool.submit(_page_faults).result() < PAGES
    finally:
        stop_workers(pool)


def test_the_callers_process_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "the user's script", raising=False)
    names = [*ENVIRONMENT, "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    for name in names[:-1]:
        monkeypatch.delenv(name, raising=False)
    pool = start_workers(2, threads=1)
    try:
        assert len(pool._processes) == 2  # one that starts later would run the user's script
        assert pool.submit(os.getpid).result() != os.getpid()
    finally:
        stop_workers(pool)
    assert sys.modules["__main__"].__file__ == "the user's script"
    assert [os.environ.get(name) for name in names] == [None] * (len(names) - 1) + ["7"]


def test_a_pool_ends_though_a_process_was_killed_in_the_middle_of_its_answer():
    pool = start_workers(1, threads=1)
    pool.submit(os.getpid).result()
    # what is left of such an answer: that it has 1000 bytes, and none of them
    os.write(pool._result_queue._writer.fileno(), struct.pack("!i", 1000))
    end = threading.Thread(target=stop_workers, args=(pool,), daemon=True)
    end.start()
    end.join(60.0)
    assert not end.is_alive()
