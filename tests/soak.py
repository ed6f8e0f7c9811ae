"""A soak: four sites, 200 small rounds, and every minute something breaks. `make soak`; it takes about forty minutes.

Real servers and sites over TLS on loopback. What breaks, at random: a site, the server, or both are killed; Flower's
database is locked; a site's disk is full (its processes may write no byte to a file). Moving the clock needs privileges
over the whole machine, and is not tried. In the end all rounds must be whole and, where no site was left out, layers
those of an unbroken run; memory, descriptors and disk are printed. `--what kill_server,lock_database` breaks what
leaves no site out, so that the layers must be equal; `--sites 20 --rounds 3 --every 0` tells how many sites a machine
bears.
"""

import argparse
import contextlib
import random
import resource
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

sys.path.insert(0, str(Path(__file__).parent))

from conftest import LoopGrid
from deployment.harness import Deployment, family, kill, tiny_site, whole_federation

from experiments.prepare import prepare_sites
from federation.contract import load_federation
from federation.run_folder import RunFolder
from federation.server_app import federate

BREAKS = ("kill_site", "kill_server", "kill_both", "lock_database", "fill_disk")
SOURCES = ("simulated:clinic", "simulated:laboratory", "simulated:university")


class Soak:
    """The deployment, and what can be done to it."""

    def __init__(self, folder: Path, rounds: int, n_sites: int):
        self.d, self.rounds, self.command = Deployment(folder), rounds, None
        self.sites = {f"site-{k}": SOURCES[k % len(SOURCES)] for k in range(n_sites)}

    def begin(self) -> None:
        self.d.begin(
            'name = "soak"\n[contract]\nwindow = [0.5, 2.5]\nmin_sites = 2\n'
            f"[training]\nrounds = {self.rounds}\nbatch_size = 8\nlocal_epochs = 1\n"
        )
        for name, source in self.sites.items():
            self.d.add_site(name, tiny_site(source))
        self.d.serve()
        self.d.join(*self.sites, seconds=60.0 * len(self.sites))  # all start at once
        self.train()

    def train(self) -> None:
        """Start the command that trains, or follow again."""
        self.command = self.d.train_beside(*(["--resume"] if list(self.d.server.glob("runs/*")) else []))

    def keep_on(self) -> bool:
        """Do what an operator's scripts do: start again what has ended; return whether it goes on."""
        for name in self.sites:
            if self.d.running[name].poll() is not None:
                self.d.start("site", name)
        if self.d.running["server"].poll() is not None:
            self.d.serve()
        if self.command.poll() is not None:
            if self.d.last_round() == self.rounds and self.command.returncode == 0:
                return False
            print(f"  train ended with {self.command.returncode}: {self.command.stderr.read().strip()}", flush=True)
            self.train()
        return True

    def kill_site(self) -> str:
        name = random.choice(list(self.sites))
        kill(self.d.running[name])
        return f"{name} killed"

    def kill_server(self) -> str:
        kill(self.d.running["server"])
        return "server killed"

    def kill_both(self) -> str:
        return f"{self.kill_site()}, {self.kill_server()}"

    def lock_database(self) -> str:
        with contextlib.closing(sqlite3.connect(self.d.server / "flower" / "state.db", isolation_level=None)) as it:
            it.execute("PRAGMA busy_timeout = 60000")
            it.execute("BEGIN IMMEDIATE")
            time.sleep(20.0)
            it.execute("ROLLBACK")
        return "database locked for 20 s"

    def fill_disk(self) -> str:
        name = random.choice(list(self.sites))
        members = family(self.d.running[name])
        for size in (0, resource.RLIM_INFINITY):
            for member in members:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            time.sleep(10.0 if size == 0 else 0.0)
        return f"disk of {name} full for 10 s"

    def sizes(self) -> dict[str, tuple[float, int]]:
        """Return memory (MB) and descriptors of the server and each site, all of their processes together."""
        found = {}
        for name, process in self.d.running.items():
            memory, descriptors = 0.0, 0
            for member in family(process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    memory += member.memory_full_info().pss / 1e6  # what processes share counts once
                    descriptors += member.num_fds()
            found[name] = round(memory), descriptors
        return found


def unbroken(soak: Soak) -> RunFolder:
    """Train the same federation in this process, where nothing breaks."""
    store = soak.d.folder / "store"
    federation = prepare_sites(load_federation(whole_federation(soak.d, list(soak.sites))), store)
    run = RunFolder.create(soak.d.folder / "unbroken", federation, store, 1)
    federate(LoopGrid(run), run)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two breaks; 0: none")
    parser.add_argument("--what", default=",".join(BREAKS), help="what breaks, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random.seed(asked.seed)
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="mfscsn-soak-"))
    breaking = f"a break every {asked.every:g} s; the clock is not moved" if asked.every else "no break"
    print(f"{folder}: {asked.sites} sites, {asked.rounds} rounds, {breaking}", flush=True)
    soak = Soak(folder, asked.rounds, asked.sites)
    breaks = [getattr(soak, name) for name in asked.what.split(",")]
    early, next_break = None, time.monotonic() + (asked.every or float("inf"))
    try:
        soak.begin()
        while soak.keep_on():
            time.sleep(1.0)
            if early is None and soak.d.last_round() >= min(20, asked.rounds // 2):
                early = soak.sizes()
            if time.monotonic() > next_break:
                time.sleep(random.random() * 5.0)  # anywhere in a round, a write or a rename
                what = random.choice(breaks)()
                print(f"{time.monotonic() - began:6.0f} s, round {soak.d.last_round():3d}: {what}", flush=True)
                next_break = time.monotonic() + asked.every
        late, run = soak.sizes(), soak.d.run()
        rows = run.history()
        out = [row for row in rows if row["status"] != "ok"]
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        soak.d.end()  # or they would train beside
        whole, last = unbroken(soak), asked.rounds
        apart = max(
            float((values - whole.load_common(last)[name]).abs().max())
            for name, values in run.load_common(last).items()
        )
        print(f"{time.monotonic() - began:.0f} s; rounds whole: {run.last_round()}; answers left out: {len(out)}")
        for row in out:
            print(f"  round {row['round']}, {row['site']}: {row['status']}")
        for name, (memory, descriptors) in late.items():
            before = (early or late)[name]
            print(f"{name}: memory {before[0]} -> {memory} MB, descriptors {before[1]} -> {descriptors}")
        print(f"disk: {disk:.1f} MB, {1000 * disk / asked.rounds:.0f} kB a round")
        print(f"farthest value from the unbroken run's: {apart:.3g}{'' if not out else ' (sites were left out)'}")
        good = run.last_round() == asked.rounds and (bool(out) or apart < 1e-5)
        print("the soak is passed" if good and torch.isfinite(torch.tensor(apart)) else "THE SOAK IS NOT PASSED")
        return 0 if good else 1
    finally:
        if any(process.poll() is None for process in soak.d.running.values()):
            soak.d.end()


if __name__ == "__main__":
    sys.exit(main())
