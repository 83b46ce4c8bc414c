"""What a model takes, put together from what its bricks take."""
