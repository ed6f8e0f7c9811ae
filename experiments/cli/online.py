"""`mfscsn decode`: a finished federation on a running EEG stream."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.errors import InputError
from experiments.cli.options import RUN, takes, typed_names
from experiments.cli.say import say

if TYPE_CHECKING:
    from experiments.stream import Answer

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What `mfscsn decode` is told."""

    model: Annotated[
        Path, typer.Argument(help="A finished run, or what `export` wrote.", metavar="RUN|FILE", show_default=False)
    ]
    stream: Annotated[str, typer.Option(help="Name of the EEG stream.", show_default=False)]
    markers: Annotated[str | None, typer.Option(help="Name of the stream of cues; without it, windows slide.")] = None
    cues: Annotated[str | None, typer.Option(help="Only these cues.  \\[default: all]", metavar="NAME,...")] = None
    slide: Annotated[float, typer.Option(min=0.05, help="Seconds from one window to the next.")] = 0.5
    learn: Annotated[int, typer.Option(min=0, help="Learn from so many first trials, whose cues are labels.")] = 0
    site: Annotated[str | None, typer.Option(help="Whose network of the run.")] = None
    subject: Annotated[str | None, typer.Option(help="Whose mean, of the site's subjects.")] = None
    tasks: Annotated[
        str | None, typer.Option(help="Labels to tell apart, for a headset that no site has.", metavar="NAME,...")
    ] = None
    send: Annotated[str, typer.Option(help="Name of the stream that answers are sent as.")] = "mfscsn"
    trials: Annotated[int | None, typer.Option(min=1, help="End after so many answers.")] = None
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after so long.")] = None
    out: Annotated[Path | None, typer.Option(help="A table to write in the end.")] = None


@app.command(
    rich_help_panel=RUN,
    epilog="Example: mfscsn decode MODEL --stream amplifier --markers cues --tasks left_hand,right_hand",
)
@takes(Decoding)
def decode(asked: Decoding) -> None:
    """Decode a Lab Streaming Layer stream while it runs."""
    from experiments.decoder import Decoder
    from experiments.stream import Cutting, Markers, OpenStream, Outlet, decode_stream
    from federation.common_layers import read_common

    if asked.out is not None and asked.out.exists():
        raise InputError(f"{asked.out}: already exists; give another --out, or remove it")
    if (asked.site is None) == (asked.tasks is None):
        raise InputError("say whose network with --site, or for a headset that no site has which labels with --tasks")
    stream = OpenStream(asked.stream)
    if asked.tasks is not None:
        common = read_common(asked.model)
        reference = [] if isinstance(common.contract.reference, str) else common.contract.reference
        apart = {name.lower() for name in reference}
        channels = [name for name in stream.channels if name.lower() not in apart]
        decoder = Decoder.of_common(common, channels, typed_names(asked.tasks))
    else:
        assert asked.site is not None
        decoder = Decoder.from_run(asked.model, asked.site, asked.subject)
    markers = Markers(asked.markers) if asked.markers is not None else None
    outlet = Outlet(asked.send, decoder.labels)
    if decoder.preprocessing.filter != "causal":
        say('the federation was filtered with a look ahead; filter = "causal" in its contract fits a stream')
    say(f"{asked.stream}: {len(decoder.channels)} channels at {stream.sfreq:g} Hz; answers: stream {asked.send}")
    end = time.monotonic() + asked.seconds if asked.seconds is not None else float("inf")
    answers: list[Answer] = []
    how = Cutting(tuple(typed_names(asked.cues)), asked.slide, asked.learn)
    try:
        for told in decode_stream(decoder, stream, markers, how, lambda: time.monotonic() < end):
            if isinstance(told, str):
                say(told)
                continue
            if told.learned:
                say(f"{told.seconds:8.2f} s  {told.cue}: learned")
                continue
            answers.append(told)
            outlet.push(told.probabilities)
            shown = "  ".join(f"{n} {p:.2f}" for n, p in zip(decoder.labels, told.probabilities, strict=True))
            say(f"{told.seconds:8.2f} s  {told.cue}: {shown}  ({1000 * told.late:.0f} ms)")
            if asked.trials is not None and len(answers) >= asked.trials:
                break
    except KeyboardInterrupt:
        say("ended")
    finally:  # when the amplifier ends, too
        _close(answers, decoder.labels, asked.out)


def _close(answers: "list[Answer]", labels: tuple[str, ...], out: Path | None) -> None:
    import numpy as np

    from data.files import write_csv

    if answers:
        late = 1000 * np.array([[a.late, a.took] for a in answers])
        middle = np.median(late, axis=0)
        say(
            f"{len(answers)} answers, {middle[0]:.0f} ms after a trial's last sample (median; decoding alone"
            f" {middle[1]:.1f} ms)"
        )
        known = [a for a in answers if a.cue in labels]
        if known:
            right = sum(labels[int(a.probabilities.argmax())] == a.cue for a in known)
            say(f"{right} of {len(known)} as the cue said")
    if out is not None:
        rows = [
            [f"{a.seconds:.3f}", a.cue, *(f"{p:.6f}" for p in a.probabilities), labels[int(a.probabilities.argmax())]]
            for a in answers
        ]
        write_csv(out, ["onset", "cue", *(f"p_{name}" for name in labels), "predicted"], rows)
        say(f"answers: {out}")
