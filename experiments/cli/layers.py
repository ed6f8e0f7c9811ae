"""`mfscsn adopt`, `predict` and `export`: what a finished run's layers are good for."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.errors import InputError
from experiments.cli.options import PREPARED, RUN, SHARE, Out, Pattern, StoreRoot, takes, typed_names
from experiments.cli.say import say

if TYPE_CHECKING:
    from federation.contract import Site

app = typer.Typer()

Run = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN", show_default=False)]
Data = Annotated[
    str,
    typer.Option(
        help="A folder, trials as .npz, or a source such as moabb:CLASS.", metavar="SOURCE", show_default=False
    ),
]


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What `mfscsn adopt` is told."""

    common: Annotated[
        Path, typer.Argument(help="A finished run, or what `export` wrote.", metavar="RUN|FILE", show_default=False)
    ]
    data: Data
    tasks: Annotated[str, typer.Option(help="Annotations to tell apart.", metavar="NAME,...", show_default=False)]
    calibration: Annotated[int, typer.Option(min=2, help="A target's first trials, which train.")] = 20
    targets: Annotated[
        str | None,
        typer.Option(help="Subjects to be scored; others train whole.  \\[default: all]", metavar="NAME,..."),
    ] = None
    subjects: Annotated[str | None, typer.Option(help="Only these are used.", metavar="NAME,...")] = None
    pattern: Pattern = None
    name: Annotated[str, typer.Option(help="The new site's name.")] = "here"
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed, in place of the run's.")] = None
    out: Out = None
    store: StoreRoot = PREPARED

    def site(self) -> "Site":
        """Describe the new site; its data set's subjects are named."""
        from data.sources import open_source
        from federation.contract import Site
        from federation.tables import parse_table

        source = _absolute(self.data)
        options = {"pattern": self.pattern} if self.pattern is not None else {}
        used = typed_names(self.subjects) or open_source(source, options).subjects()
        dataset = {
            "source": source,
            "options": options,
            "tasks": typed_names(self.tasks),
            "subjects": used,
            "targets": typed_names(self.targets) or used,
            "calibration": {"first": self.calibration},
        }
        return parse_table(Site, {"name": self.name, "dataset": [dataset]}, "adopt")


@app.command(rich_help_panel=SHARE, epilog="Example: mfscsn adopt RUN --data bids:FOLDER --tasks left_hand,right_hand")
@takes(Adoption)
def adopt(asked: Adoption) -> None:
    """Train a new site around a finished run's common layers."""
    from data.files import check_free
    from experiments.adopt import adopt as train_around
    from experiments.adopt import adopting
    from experiments.cli.show import ProgressLines, score_table
    from experiments.prepare import prepare_sites
    from experiments.remarks import remarks
    from experiments.report.run import report
    from federation.common_layers import read_common
    from federation.run_folder import RunFolder
    from federation.workers import warm_up

    warm_up(threads=1)
    common = read_common(asked.common)
    federation = adopting(common, asked.site(), asked.seed)
    path = asked.out or Path("runs") / f"{federation.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    check_free(path, resumable=False)
    with ProgressLines() as show:
        federation = prepare_sites(federation, asked.store, show.prepared)
        run = RunFolder.create(path, federation, asked.store, 1)
        scores = train_around(run, common, show.progress)
    for line in remarks(federation, asked.store):
        say(line)
    score_table(scores)
    say(
        f"mf-scsn: around the layers of {common.name}, which stay as they are; local-site: the strongest without them."
        " A label that no site there has trained is learned from your trials alone"
    )
    say(f"run folder: {os.path.relpath(run.path)}\nreport: {os.path.relpath(report(run))}")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What `mfscsn predict` is told."""

    run: Annotated[
        Path, typer.Argument(help="A finished run, or what `export` wrote.", metavar="RUN|FILE", show_default=False)
    ]
    data: Data
    cues: Annotated[
        list[str],
        typer.Option(
            help="Annotations to cut trials at, whatever their names.", metavar="NAME,...", show_default=False
        ),
    ]
    site: Annotated[str | None, typer.Option(help="Whose network.  \\[default: the run's only site]")] = None
    subjects: Annotated[str | None, typer.Option(help="Only these.", metavar="NAME,...")] = None
    pattern: Pattern = None
    own: Annotated[bool, typer.Option("--own", help="What the site has alone, in place of the federated model.")] = (
        False
    )
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Labels to tell apart, for a headset that was never in the federation.",
            metavar="NAME,...",
            show_default=False,
        ),
    ] = None
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("probabilities.csv")


@app.command(rich_help_panel=RUN, epilog="Example: mfscsn predict RUN --site clinic --data bids:today --cues cue")
@takes(Prediction)
def predict(asked: Prediction) -> None:
    """Tell the tasks of recordings without labels, as a table."""
    from experiments.predict import FederatedModel, Model, OwnModel, UnseenModel, predict_recordings, write_predictions
    from experiments.remarks import little_seen
    from federation.common_layers import is_exported, read_common
    from federation.run_folder import RunFolder

    if asked.out.exists():
        raise InputError(f"{asked.out}: already exists; give another --out, or remove it")
    model: Model
    if asked.tasks is not None:
        if asked.site is not None or asked.own:
            raise InputError("--tasks is of a headset that no site has; leave --site and --own out")
        model = UnseenModel(read_common(asked.run), typed_names(asked.tasks))
        say("name the labels as the federation does: one that no site has trained is told at random")
    elif is_exported(asked.run):
        raise InputError(f"{asked.run}: exported layers have no heads; say which labels to tell apart with --tasks")
    else:
        opened = RunFolder(asked.run)
        sites = [one.name for one in opened.federation.site]
        if asked.site is None and len(sites) > 1:
            raise InputError(f"{asked.run} has the sites {', '.join(sites)}; say whose network with --site")
        model = (
            OwnModel(opened, asked.site or sites[0]) if asked.own else FederatedModel(opened, asked.site or sites[0])
        )
    predictions = []
    wanted = typed_names(",".join(asked.cues))
    options = {"pattern": asked.pattern} if asked.pattern is not None else {}
    for one in predict_recordings(model, _absolute(asked.data), wanted, typed_names(asked.subjects) or None, options):
        predictions.append(one)
        how = "these trials themselves, all at once: it is new to the site"
        if one.known:
            how = "its own training trials; of trials that trained the network, the probabilities say nothing"
        say(f"subject {one.subject}: {len(one.trials)} trials, aligned by {how}")
        if asked.tasks is not None and (seen := little_seen(one.trials.channels)) is not None:
            say(f"subject {one.subject}: {seen}")
    write_predictions(asked.out, predictions)
    say(f"probabilities: {asked.out}")


@app.command(rich_help_panel=SHARE, epilog="Example: mfscsn export RUN --to model")
def export(
    run: Run,
    to: Annotated[Path, typer.Option(help="Folder for common.safetensors and its README.md.", show_default=False)],
) -> None:
    """Write a run's common layers, with a model card, for others."""
    from data.files import check_free
    from federation.common_layers import export_common
    from federation.run_folder import RunFolder

    check_free(to, "give another --to")
    for file in export_common(RunFolder(run), to):
        say(f"wrote {file}")


def _absolute(source: str) -> str:
    """Take a path that is typed as seen from here, of any kind."""
    from data.sources import ON_DISK
    from experiments.new import source_of

    kind, _, name = source_of(source).partition(":")
    return f"{kind}:{Path(name).resolve()}" if kind in ON_DISK else source
