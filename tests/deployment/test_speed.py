"""The measurement of a deployed message starts real servers too."""

from experiments.speed.deployed import ROUNDS, message_seconds


def test_every_message_is_timed(tmp_path):
    found = message_seconds(tmp_path / "deployed")
    assert len(found.rounds) == ROUNDS == len(found.idle)
    assert all(0 < idle < whole for idle, whole in zip(found.idle, found.rounds, strict=True))
