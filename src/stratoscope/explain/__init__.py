"""Analyses of records and traces."""
