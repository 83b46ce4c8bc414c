"""The commands: one module a verb; parse, call, print."""
