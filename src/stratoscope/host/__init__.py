"""What machine this is: identity, state over time, and the measurement lock."""
