"""Numbers as text."""


def percent(value: float, digits: int = 1) -> str:
    """A share as text."""
    return f"{100 * value:.{digits}f} %"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign; nothing is plain 0."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def plain(value: float | None) -> str:
    """Three digits; verify.json holds null where a number was not finite."""
    return "not finite" if value is None else f"{value:.3g}"
