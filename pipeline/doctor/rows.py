"""One row for each part of the machine, and all rows as a table."""

from dataclasses import asdict, dataclass
from typing import Any

from vitcop.pipeline.inspection import table


@dataclass(frozen=True, kw_only=True)
class Row:
    """One part of the machine.

    Args:
        found: its version or state; None where it is missing.
        purpose: what needs it.
        remedy: what to install or do; empty where nothing is to be done.
        required: the recipe at hand needs it.
    """

    name: str
    found: str | None
    purpose: str
    remedy: str = ""
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All rows."""

    rows: tuple[Row, ...]

    @property
    def missing(self) -> tuple[Row, ...]:
        """What is required and not there."""
        return tuple(row for row in self.rows if row.required and row.found is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {"rows": [asdict(row) for row in self.rows], "missing": [row.name for row in self.missing]}

    def table(self) -> str:
        """The rows as text."""
        lines = [("", "found", "needed for", "if missing")]
        for row in self.rows:
            state = row.found or ("MISSING" if row.required else "missing")
            lines.append((row.name, state, row.purpose, row.remedy if row.found is None else ""))
        return "\n".join(table(lines))
