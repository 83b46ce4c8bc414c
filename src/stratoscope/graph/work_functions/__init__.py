"""Work functions by operator family; graph/work.py binds them into the one registry and states the conventions."""
