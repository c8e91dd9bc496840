"""Intervals, ranks, verdicts and fronts of measured values. NumPy only."""
