"""How fast a model could be: bounds of each layer, and of the model under different schedules and layouts."""
