"""A new headset joins what others have trained: adopt a run's common layers. Usage: python examples/adopt.py RUN [NEW]

The same as `mfscsn adopt RUN --data simulated:university --tasks left_hand,right_hand --subjects 1,2 --out NEW`.
"""

import sys
from pathlib import Path

from experiments.adopt import adopt, adopting
from experiments.prepare import prepare_sites
from experiments.report.run import report
from federation.common_layers import read_common
from federation.contract import Dataset, Part, Site
from federation.run_folder import RunFolder

if __name__ == "__main__":
    common = read_common(Path(sys.argv[1]))
    path = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/adopted")
    store = path.parent / "prepared"
    dataset = Dataset(
        source="simulated:university",
        options={"n_subjects": 2, "n_runs": 2},
        tasks=["left_hand", "right_hand"],
        targets=["1", "2"],
        calibration=Part(first=20),
    )
    federation = prepare_sites(adopting(common, Site(name="newcomer", dataset=[dataset])), store)
    run = RunFolder.create(path, federation, store, threads=1)
    for score in adopt(run, common, lambda step: None):
        print(f"{score.subject:4} {score.method:16} {100 * score.balanced_accuracy:.1f}")
    print(report(run))
