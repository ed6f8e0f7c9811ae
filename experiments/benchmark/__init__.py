"""The federation beside its rivals."""
