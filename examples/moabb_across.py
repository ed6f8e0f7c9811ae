"""MOABB's cross-subject evaluation of the common space beside the usual pipelines, on laboratories that differ.

Usage: python examples/moabb_across.py [--simulated] [--subjects N]

Left against right hand of BNCI2014_001, Cho2017, Lee2019_MI and PhysionetMI, which MOABB downloads (tens of gigabytes;
`MNE_DATA` says where to), so that anyone can check us on real laboratories. With --simulated, on two data sets that are
made here. The first row is what each pipeline has within a data set, on subjects that it has not seen.
"""

import argparse
import tempfile

import mne
import numpy as np
from mne.decoding import CSP
from moabb import datasets
from moabb.evaluations import CrossSubjectEvaluation
from moabb.paradigms import LeftRightImagery
from pyriemann.estimation import Covariances
from pyriemann.tangentspace import TangentSpace
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from mfscsn import CommonSpace, MFSCSNClassifier

SFREQ, ELECTRODES = 128.0, "motor21"
MONTAGES = (
    ["FC3", "FC4", "C3", "Cz", "C4", "CP3", "CP4"],
    ["C5", "C3", "C1", "Cz", "C2", "C4", "C6", "CPz"],
)  # simulated
mne.set_log_level("ERROR")
asked = argparse.ArgumentParser()
asked.add_argument("--simulated", action="store_true")
asked.add_argument("--subjects", type=int)
asked = asked.parse_args()

if asked.simulated:
    from data.simulated import simulated_dataset

    options = {"n_subjects": 2, "n_runs": 1, "n_trials": 8}
    found = [simulated_dataset("laboratory", options | {"montage": names}) for names in MONTAGES]
else:
    found = [getattr(datasets, name)() for name in ("BNCI2014_001", "Cho2017", "Lee2019_MI", "PhysionetMI")]
for dataset in found:
    dataset.subject_list = dataset.subject_list[: asked.subjects]

paradigm = LeftRightImagery(fmin=4, fmax=38, tmin=0.25, tmax=2.75, resample=SFREQ)


def pipelines(channels):
    """Make each pipeline anew for a headset."""
    return {
        "CSP + LDA": make_pipeline(CSP(n_components=6, reg="ledoit_wolf"), LinearDiscriminantAnalysis()),
        "tangent space + LR": make_pipeline(Covariances("oas"), TangentSpace(), LogisticRegression(max_iter=1000)),
        "common space + tangent space + LR": make_pipeline(
            CommonSpace(channels, ELECTRODES), Covariances("oas"), TangentSpace(), LogisticRegression(max_iter=1000)
        ),
        "MF-SCSN, one site": make_pipeline(MFSCSNClassifier(sfreq=SFREQ, channels=channels)),
    }


trials = []  # of each data set: a subject's trials in the common space, and whether each is of the left hand
for dataset in found:
    epochs, labels, table = paradigm.get_data(dataset, return_epochs=True)
    channels, signals = epochs.ch_names, epochs.get_data() * 1e6
    with tempfile.TemporaryDirectory() as folder:
        results = CrossSubjectEvaluation(paradigm, [dataset], hdf5_path=folder, overwrite=True, random_state=0).process(
            pipelines(channels)
        )
    print(f"\n{dataset.code}: ROC AUC on subjects that were not seen")
    print(results.groupby("pipeline")["score"].agg(["mean", "std", "count"]).round(3))
    subjects = np.asarray(table["subject"])
    trials.append(
        [
            (
                CommonSpace(channels, ELECTRODES).fit_transform(signals[subjects == s]),
                labels[subjects == s] == "left_hand",
            )
            for s in dict.fromkeys(subjects)
        ]
    )

print("\nacross data sets, in the common space: trained on all others, ROC AUC on each subject, its own mean alone")
for dataset, subjects in zip(found, trials, strict=True):
    others = [subject for some in trials if some is not subjects for subject in some]
    decoder = make_pipeline(Covariances("oas"), TangentSpace(), LogisticRegression(max_iter=1000))
    decoder.fit(np.concatenate([x for x, _ in others]), np.concatenate([y for _, y in others]))
    scores = [roc_auc_score(y, decoder.predict_proba(x)[:, 1]) for x, y in subjects]
    print(f"{dataset.code}: {np.mean(scores):.3f}, {len(scores)} subjects")
