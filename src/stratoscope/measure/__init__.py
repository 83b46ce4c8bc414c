"""Scenarios, evaluations and leveled profiling."""
