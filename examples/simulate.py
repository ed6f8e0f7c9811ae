"""Simulate a federation from Python: recordings to trials, rounds, references, scores, report.

The same as `mfscsn simulate examples/small.toml --out RUN`. Usage: python examples/simulate.py [RUN]
"""

import sys
from pathlib import Path

from experiments.prepare import prepare_sites
from experiments.report.run import report
from experiments.simulate import simulate
from federation.contract import load_federation
from federation.run_folder import RunFolder

if __name__ == "__main__":  # sites train in processes of their own, which import this file
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/small")
    store = path.parent / "prepared"
    federation = prepare_sites(load_federation(Path(__file__).with_name("small.toml")), store)
    run = RunFolder.create(path, federation, store, threads=1)
    for score in simulate(run, lambda step: print(step.stage, f"{step.done}/{step.total}", step.detail)):
        print(f"{score.site:12} {score.subject:4} {score.method:16} {100 * score.balanced_accuracy:.1f}")
    print(report(run))
