"""Metrics of quality: one class a metric, with its name, unit and formula."""
