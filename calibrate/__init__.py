"""Calibration: schedules, sample sets, model families, PyTorch runs under a schedule, and the search for a schedule."""

if __name__ != "vitcop.calibrate":
    raise ImportError(
        f"import this package as 'vitcop.calibrate', not as {__name__!r}: install the project (pip install -e .)"
    )
