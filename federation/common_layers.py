"""Common layers on the road: exported with what is needed to use them, and read from an export or a run's folder."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from data.errors import InputError
from data.files import replaced
from federation.contract import ONE_MESSAGE, Contract, Dataset, Training
from federation.run_folder import RunFolder
from federation.site import write_tensors
from federation.tables import parse_table
from mfscsn.exported import FILE, KIND, CommonLayers, read_exported, read_file

CARD = "README.md"

MODEL_CARD = """\
---
library_name: mfscsn
tags: [eeg, motor-imagery, bci, federated-learning]
---

# Common layers of the federation {name}

The common layers of separate-common-separate networks for motor-imagery EEG (MF-SCSN, Wei and Faisal 2022,
arXiv:2211.10976), averaged over {n_sites} sites in {rounds} rounds ({strategy}).
{kind}

| | |
|---|---|
| trials | {start:g} to {end:g} s after the cue, {low:g} to {high:g} Hz, {sfreq:g} Hz |
| extractor, alignment | {extractor}, {alignment} |
| arrays | {arrays} |
| shared | {share} |
| written by | mfscsn {version}, run {run} |

## Use

```
{unseen}mfscsn adopt {file} --data bids:FOLDER --tasks NAME,NAME  # a new site's own layers around these; what they give
```

In Python, `mfscsn.MFSCSNClassifier(common="{file}", channels=[...])` continues from them;
`channels` are the names of your own electrodes.

## Limits

The layers were trained on the sites' trials and can leak what they were trained on; docs/privacy.md of the project says
what its own attacks found. Whether they help a new site must be measured there: `adopt` does, beside the same network
without them. No clinical use.
"""


BETWEEN = "First and last layers are not in it: they stay at the sites, and a new site trains its own."
IN_SPACE = """\
They decode trials in the common space, which any headset has: {electrodes}.
Heads are not in it. They begin with rows that the labels' names and the run's seed tell, so a headset that no site had
decodes without one labelled trial."""
SUMS = """\
They are no layers that were trained but sums over the sites' trials in the common space ({electrodes}), which any
headset has; linear discriminant analysis of {labels} follows from them. A headset that no site had decodes without one
labelled trial."""
UNSEEN = "mfscsn predict {file} --data bids:FOLDER --cues CUE --tasks NAME,NAME  # any headset, no labelled trial\n"


@dataclass(frozen=True, kw_only=True)
class AdoptableLayers(CommonLayers):
    """Common layers with the contract and training that they came from: what another site needs to adopt them.

    `trained_on` is `of_subject` of all who trained, where it is known: not in an export.
    """

    contract: Contract
    training: Training
    trained_on: frozenset[str] = frozenset()


def of_subject(dataset: Dataset, subject: str) -> str:
    """Tell one subject of a data set from all others."""
    return json.dumps([dataset.source, dataset.options, subject], sort_keys=True)


def is_exported(path: Path) -> bool:
    """Tell whether a path is what `export_common` wrote, the folder or its file, and no run."""
    return (path / FILE).exists() or path.is_file()


def read_common(path: Path) -> AdoptableLayers:
    """Read common layers from a run's folder or an exported file.

    Raises
    ------
    InputError
        When there are none, or the run has not reached its last round.
    """
    if not is_exported(path):
        run = RunFolder(path)
        _check_finished(run)
        f = run.federation
        return AdoptableLayers(
            name=f.name,
            architecture=f.contract.architecture,
            alignment=f.contract.alignment_model,
            seed=f.training.seed,
            layers=run.load_common(run.last_round()),
            labels=tuple(f.contract.labels or ()),
            contract=f.contract,
            training=f.training,
            trained_on=frozenset(of_subject(d, s) for site in f.site for d in site.dataset for s in d.subjects or []),
        )
    try:
        exported, (_, about) = read_exported(path), read_file(path)
    except ValueError as error:
        raise InputError(str(error)) from error
    return AdoptableLayers(
        **vars(exported),
        contract=parse_table(Contract, json.loads(about["contract"]), str(path)),
        training=parse_table(Training, json.loads(about["training"]), str(path)),
    )


def export_common(run: RunFolder, folder: Path) -> list[Path]:
    """Write a finished run's common layers, ``common.safetensors``, and a model card to a folder; return the files."""
    _check_finished(run)
    f = run.federation
    layers = {name: values.float() for name, values in run.load_common(run.last_round()).items()}
    about = {
        "kind": KIND,
        "name": f.name,
        "run": run.run_id,
        "round": str(run.last_round()),
        "architecture": json.dumps(asdict(f.contract.architecture)),
        "alignment": json.dumps(asdict(f.contract.alignment_model)),
        "contract": f.contract.model_dump_json(exclude_none=True),
        "training": f.training.model_dump_json(),
    }
    write_tensors(folder / FILE, layers, about)
    card = MODEL_CARD.format(
        name=f.name,
        n_sites=len(f.site),
        rounds=run.last_round(),
        strategy=f.contract.strategy,
        start=f.contract.window[0],
        end=f.contract.window[1],
        low=f.contract.band[0],
        high=f.contract.band[1],
        sfreq=f.contract.sfreq,
        extractor=f.contract.extractor,
        alignment=f.contract.alignment,
        arrays=", ".join(f"`{name}` {tuple(layer.shape)}" for name, layer in layers.items()),
        share=f.contract.share,
        kind=_kind(f.contract),
        unseen=UNSEEN.format(file=FILE) if f.contract.space else "",
        version=version("mfscsn"),
        run=run.run_id,
        file=FILE,
    )
    with replaced(folder / CARD) as out:
        out.write(card.encode())
    return [folder / FILE, folder / CARD]


def _kind(contract: Contract) -> str:
    electrodes = " ".join(contract.space)
    if contract.strategy == ONE_MESSAGE:
        return SUMS.format(electrodes=electrodes, labels=", ".join(contract.labels or []))
    return IN_SPACE.format(electrodes=electrodes) if contract.space else BETWEEN


def _check_finished(run: RunFolder) -> None:
    last, rounds = run.last_round(), run.federation.training.rounds
    if last < rounds:
        raise InputError(
            f"{run.path}: ended at round {last} of {rounds}; go on with --resume before its layers are used"
        )
    if run.federation.contract.share == "none":
        raise InputError(f"{run.path}: share = 'none', so it has no common layers")
