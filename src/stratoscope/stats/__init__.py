"""What a number means: estimators, intervals, stopping rules, the noise gate. Pure mathematics: no files, no clocks."""
