"""From an own folder of recordings in BIDS to a report. Usage: python examples/own_bids.py FOLDER [RUN]

The same as `mfscsn new mine.toml --site here=FOLDER` and `mfscsn simulate mine.toml --out RUN`.
"""

import sys
from pathlib import Path

from experiments.new import write_federation
from experiments.prepare import prepare_sites
from experiments.report.run import report
from experiments.simulate import simulate
from federation.contract import load_federation
from federation.run_folder import RunFolder

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    path = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/own")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.parent / "mine.toml"
    (found,) = write_federation(file, {"here": folder})
    print(f"{len(found.subjects)} subjects, {len(found.channels)} channels, tasks {found.tasks}")
    store = path.parent / "prepared"
    run = RunFolder.create(path, prepare_sites(load_federation(file), store), store, threads=1)
    simulate(run, lambda step: None)
    print(report(run))
