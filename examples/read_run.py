"""Read a run in pandas and torch. Usage: python examples/read_run.py RUN"""

import sys
from pathlib import Path

import pandas as pd
import torch

from federation.run_folder import RunFolder

run = RunFolder(Path(sys.argv[1]))

history = pd.read_csv(run.path / "history.csv")
print("training loss by round and site")
print(history.pivot(index="round", columns="site", values="loss").round(3).tail(3))

scores = pd.read_csv(run.path / "scores.csv", dtype={"subject": str})
print("\nbalanced accuracy, percent")
print((100 * scores.pivot_table(index=["site", "subject"], columns="method", values="balanced_accuracy")).round(1))

predictions = pd.read_csv(run.path / "predictions.csv", dtype={"subject": str})
ours = predictions[predictions["method"] == "mf-scsn"]
print("\nwhat the federation's networks took each label for")
print(pd.crosstab([ours["site"], ours["label"]], ours["predicted"]))

site = run.federation.site[0].name
network = run.load_network(site)  # a torch module
for branch, shape in network.branches.items():
    print(f"\nsite {site}, data set {branch}: n_chans={shape.n_chans}, n_outputs={shape.n_outputs}")
print("common layers:", {name: tuple(value.shape) for name, value in network.common_state().items()})
print("parameters:", sum(p.numel() for p in network.parameters() if isinstance(p, torch.Tensor)))
