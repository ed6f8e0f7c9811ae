"""What is measured is measured right; how long it takes is no test."""

import json
import time

import pytest
import torch
from conftest import mfscsn, refused

from experiments.speed import run as measured
from experiments.speed.decoding import seconds_of_decoding
from experiments.speed.run import PlainShallow, _memory, in_turns, ratio
from mfscsn.branch import Branch
from mfscsn.network import Architecture, ExtractorAlone


def test_sides_take_turns_and_the_first_turn_does_not_count():
    turns = []
    seconds = in_turns({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 3)
    assert "".join(turns) == "abababab" and [len(found) for found in seconds.values()] == [3, 3]


def test_a_turn_lasts_for_a_quick_side_as_for_a_slow_one():
    now, turns = [0.0], []

    def side(name, seconds):
        def work():
            turns.append(name)
            now[0] += seconds

        return work

    seconds = in_turns({"a": side("a", 0.25), "b": side("b", 2.0)}, 1, turn=0.5, clock=lambda: now[0])
    assert "".join(turns) == "aaabbaaabb" and seconds == {"a": [0.25], "b": [2.0]}


def test_ratio_is_the_median_of_pairs():
    seconds = {"ours": [1.0, 2.0, 1.0], "rival": [4.0, 4.0, 30.0]}
    assert ratio(seconds, "rival", "ours") == 4.0


@pytest.mark.parametrize(("n_chans", "n_times"), [(22, 750), (3, 640)])
@pytest.mark.parametrize("training", [False, True])
def test_the_plain_form_gives_what_ours_gives(n_chans, n_times, training):
    torch.manual_seed(0)
    ours = ExtractorAlone(Architecture(n_times, 250.0, "shallow"), {"": Branch(n_chans, 4)})
    plain = PlainShallow(n_chans, n_times, 4, 25, 75, 15)
    ours.extractor.drop.p = plain.drop.p = 0.0
    with torch.no_grad():
        plain.temporal.weight.copy_(ours.extractor.filters.temporal[:, None, None])
        plain.temporal.bias.zero_()
        plain.spatial.weight.copy_(ours.extractor.filters.spatial[..., None])
        plain.classifier.load_state_dict(ours.classifier.state_dict())
    x = torch.randn(8, n_chans, n_times)
    assert torch.allclose(plain.train(training)(x), ours.train(training)(x, ""), atol=1e-4)


def test_memory_is_watched_at_its_peak():
    with _memory() as peak:
        before = torch.ones(50 * 2**20)  # 200 MiB
        time.sleep(0.6)
        assert before.sum() > 0
    assert peak[0] > 200 * 2**20


def test_the_command_prints_and_writes_what_it_measured(tmp_path, tiny_file, prepared):
    words = ("speed", "--federation", tiny_file, "--store", prepared, "--parts", "bytes", "--json", "s.json")
    code, out, err = mfscsn(*words, cwd=tmp_path)
    assert code == 0, err
    (row,) = json.loads((tmp_path / "s.json").read_text())
    arrays = 4 * (50 * 40 * 26 + 50)
    assert row["what"] == "tiny, shallow: a round and site, down and up" and row["rival"] == 2 * arrays / 1e3
    assert row["rival"] < row["ours"] < row["rival"] + 5 and f"| {row['ours']:.3g} kB |" in out
    assert "INFO" not in out + err
    assert "no such part 'stepp'; did you mean 'step'?" in refused("speed", "--parts", "stepp", cwd=tmp_path)


def test_a_trial_is_decoded_as_often_as_asked(tmp_path):
    assert len(seconds_of_decoding(3, 4)) == 4 and min(seconds_of_decoding(21, 2, "tangent")) > 0
    code, out, err = mfscsn("speed", "--parts", "decode", "--repetitions", "1", cwd=tmp_path)
    assert code == 0 and out.count("| decode | one trial of") == 3, err


def test_a_round_is_timed_on_every_device_that_is_here(monkeypatch):
    monkeypatch.setattr(measured, "CASES", (("eegnet", 24), ("tangent", 24)))
    rows = list(measured.rounds_of_a_device(1))
    n_devices = 2 if torch.cuda.is_available() else 1
    assert len(rows) == 2 * n_devices and rows[0].what == "eegnet, a round of 24 trials, on all threads"
    assert all(row.against == "one thread" and row.ours > 0 and row.rival > 0 for row in rows)
