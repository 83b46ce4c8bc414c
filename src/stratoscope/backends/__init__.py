"""How one framework loads, runs and traces a model."""
