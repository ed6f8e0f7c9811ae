"""Processes that train keep the memory that they have freed for the next step."""

import resource

import torch

from federation.workers import start_workers, stop_workers

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
