"""What is borrowed of Flower beside its public interface, in one room: a new version of Flower breaks here first.

Public is what Flower documents: ``flwr.app``, ``flwr.clientapp``, ``flwr.serverapp`` with its strategies,
``flwr.simulation``, and its commands. All else of Flower is imported by the files of this room alone, one for each
kind of process, so that none loads what it does not need. `tests/federation/test_flower.py` compares each name with its
signature; `docs/flower.md` says what moving to another version takes.
"""
