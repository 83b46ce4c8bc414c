"""XSP's fifteen analyses A1-A15 of leveled traces (arXiv 1908.06869, section III-D), and what goes beyond them."""
