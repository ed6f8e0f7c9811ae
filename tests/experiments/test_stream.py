"""A recording played as a stream on loopback: what is decoded while it runs is what is decoded of the whole file."""

import csv
from dataclasses import replace

import mne
import numpy as np
import pytest
from conftest import LoopGrid, mfscsn, refused

from data.errors import FailedError, InputError
from data.preprocessing import Recording, cut_trials
from experiments.decoder import Decoder
from experiments.stream import Answer, Cutting, Markers, OpenStream, Outlet, decode_stream
from federation.common_layers import export_common, read_common
from federation.server_app import federate

lsl = pytest.importorskip("mne_lsl.lsl")
CHANNELS, LABELS, SFREQ = ("F3", "C3", "Cz", "C4", "P4"), ("right_hand", "rest"), 250.0
CUES = [0.7, 3.6, 5.9, 8.1]


@pytest.fixture
def common(make_run):
    run = make_run(extractor="common-space", contract='body = "tangent"')
    federate(LoopGrid(run), run)
    common = read_common(run.path)
    return replace(common, contract=common.contract.model_copy(update={"filter": "causal"}))


def raw_of(names=("right_hand", "rest"), seconds=13.0):
    signals = 1e-5 * np.random.default_rng(0).normal(size=(6, int(seconds * SFREQ)))
    info = mne.create_info(["EEG F3-REF", *CHANNELS[1:], "EOG"], SFREQ, ["eeg"] * 5 + ["eog"])
    raw = mne.io.RawArray(signals, info, verbose="ERROR")
    return raw.set_annotations(mne.Annotations(CUES, 1.0, list(names) * 2))


@pytest.fixture
def played(request):
    """Play a recording once under a name of its own; stopped in the end."""
    from mne_lsl.player import PlayerLSL

    players = []

    def play(raw, encoding="string"):
        name = f"amp-{request.node.name}-{len(players)}"
        player = PlayerLSL(raw, chunk_size=20, n_repeat=1, name=name, source_id=name, annotations_encoding=encoding)
        players.append(player)
        player.start()
        return name

    yield play
    for player in players:
        if player.running:
            player.stop()


@pytest.mark.parametrize("encoding", ["string", "one-hot"])
def test_a_stream_is_decoded_as_the_recording_is(common, played, encoding):
    name = played(raw_of(), encoding)
    stream, markers = OpenStream(name), Markers(f"{name}-annotations")
    assert stream.channels == CHANNELS
    decoder, answers = Decoder.of_common(common, CHANNELS, LABELS), []
    for told in decode_stream(decoder, stream, markers, going=lambda: len(answers) < 2):
        assert isinstance(told, Answer), told
        answers.append(told)
    assert all(answer.late < 1.0 for answer in answers)

    raw = raw_of()
    raw.rename_channels({"EEG F3-REF": "F3"})
    whole = cut_trials(Recording(raw, "", "", ""), common.contract.preprocessing, {n: n for n in LABELS}, "s")
    offline = Decoder.of_common(common, CHANNELS, LABELS)
    cues = whole.labels.tolist()
    first = cues.index(answers[0].cue)  # the stream may have been joined after the first cue
    wanted = [offline.decode(trial) for trial in whole.signals[-len(cues) :][_missed(answers, first) :]]
    assert [answer.cue for answer in answers] == cues[_missed(answers, first) :][: len(answers)]
    for answer, told in zip(answers, wanted, strict=False):
        # a filter that began a second later, and a cue that was told to the nearest time stamp
        np.testing.assert_allclose(answer.probabilities, told, atol=0.1)


def _missed(answers, first):
    """How many cues came before the stream was joined, by the gap between the first two answers."""
    gap = answers[1].seconds - answers[0].seconds
    return int(np.argmin(np.abs(np.diff(CUES) - gap)))


def test_windows_slide_and_answers_are_a_stream(common, played):
    name = played(raw_of())
    stream = OpenStream(name)
    decoder = Decoder.of_common(common, CHANNELS, LABELS)
    outlet = Outlet(f"{name}-answers", LABELS)
    (info,) = lsl.resolve_streams(timeout=5, name=f"{name}-answers")
    inlet = lsl.StreamInlet(info)
    inlet.open_stream(timeout=5)
    answers, remarks = [], []
    for told in decode_stream(decoder, stream, None, Cutting(slide=0.5), lambda: len(answers) < 5):
        (remarks if isinstance(told, str) else answers).append(told)
        if isinstance(told, Answer):
            outlet.push(told.probabilities)
    assert np.allclose(np.diff([answer.seconds for answer in answers]), 0.5) and not remarks
    received = [inlet.pull_sample(timeout=2)[0].copy() for _ in answers]
    np.testing.assert_allclose(received, [answer.probabilities for answer in answers], atol=1e-6)
    assert inlet.get_sinfo().get_channel_names() == list(LABELS)


def test_first_trials_are_learned_from_and_the_end_is_said(common, played):
    name = played(raw_of())
    decoder = Decoder.of_common(common, CHANNELS, LABELS)
    going = decode_stream(decoder, OpenStream(name), Markers(f"{name}-annotations"), Cutting(learn=2))
    told = [one for one in _until_ended(going) if isinstance(one, Answer)]
    assert [one.learned for one in told] == [True, True] + [False] * (len(told) - 2) and len(told) > 2


def _until_ended(answers):
    try:
        yield from answers
    except FailedError as error:
        assert "no sample for 5 s; has it ended?" in str(error)


def test_from_the_command_line_to_a_table(common, played, make_run, tmp_path):
    run = make_run("exported", extractor="common-space", contract='body = "tangent"')
    federate(LoopGrid(run), run)
    export_common(run, tmp_path / "card")
    name = played(raw_of())
    words = ("--stream", name, "--markers", f"{name}-annotations", "--tasks", "right_hand,rest")
    code, out, err = mfscsn("decode", "card", *words, "--trials", "2", "--out", "told.csv", cwd=tmp_path)
    assert code == 0, out + err
    assert (
        "5 channels at 250 Hz; answers: stream mfscsn" in out and "the federation was filtered with a look ahead" in out
    )
    assert "2 answers, " in out and " of 2 as the cue said" in out
    with (tmp_path / "told.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["onset", "cue", "p_right_hand", "p_rest", "predicted"] and len(rows) == 2
    assert "already exists" in refused("decode", "card", *words, "--out", "told.csv", cwd=tmp_path)
    assert "say whose network" in refused("decode", "card", "--stream", name, cwd=tmp_path)


def test_a_stream_that_is_not_there_is_said(played):
    name = played(raw_of())
    with pytest.raises(InputError, match=rf"no stream 'nobody'.*there (are|is).*{name}"):
        OpenStream("nobody", timeout=0.5)
    with pytest.raises(InputError, match="has no regular rate"):
        OpenStream(f"{name}-annotations")
    with pytest.raises(InputError, match="has no channel 'Fz'"):
        OpenStream(name).places(["Fz"])
