"""Tables, plots and the HTML page: renders records, computes nothing."""
