"""What happened: spans, levels, clocks, correlation, import and export."""
