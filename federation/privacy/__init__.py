"""Secure aggregation, differential privacy and its ledger."""
