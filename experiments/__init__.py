"""What a person runs; the only layer that may import all others."""
