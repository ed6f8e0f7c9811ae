"""MOABB's own evaluations of MFSCSNClassifier beside CSP + LDA.

Usage: python examples/moabb_pipeline.py [--simulated]

Left against right hand of PhysionetMI, subjects 1 and 42, which MOABB downloads (`MNE_DATA` says where to). With
--simulated, of two subjects that are made here.
"""

import sys
import tempfile

from mne.decoding import CSP
from moabb.datasets import PhysionetMI
from moabb.evaluations import CrossSubjectEvaluation, WithinSessionEvaluation
from moabb.paradigms import LeftRightImagery
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline

from mfscsn import MFSCSNClassifier

SFREQ = 128.0

if "--simulated" in sys.argv:
    from data.simulated import simulated_dataset

    dataset = simulated_dataset("laboratory", {"n_subjects": 2, "n_runs": 2})
else:
    dataset = PhysionetMI()
    dataset.subject_list = [1, 42]

paradigm = LeftRightImagery(fmin=4, fmax=38, tmin=0.25, tmax=3.5, resample=SFREQ)
pipelines = {
    "CSP + LDA": make_pipeline(CSP(n_components=6, reg="ledoit_wolf"), LinearDiscriminantAnalysis()),
    "MF-SCSN, one site": make_pipeline(MFSCSNClassifier(sfreq=SFREQ)),
}
for evaluation in (WithinSessionEvaluation, CrossSubjectEvaluation):
    with tempfile.TemporaryDirectory() as folder:
        results = evaluation(paradigm, [dataset], hdf5_path=folder, overwrite=True, random_state=0).process(pipelines)
    print(f"\n{evaluation.__name__}: ROC AUC")
    print(results.pivot_table(index="subject", columns="pipeline", values="score", margins=True).round(3))
