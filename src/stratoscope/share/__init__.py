"""Weights shared between processes: one copy a machine, mapped read-only by everyone who uses the model."""
