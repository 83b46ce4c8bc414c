"""The results database and its artefacts."""
