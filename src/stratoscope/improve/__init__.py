"""Fixes: find where one applies, apply it, check that the outputs stay, measure it against the original, keep it."""
