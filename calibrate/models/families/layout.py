"""Where visual tokens come from: for each token the rows and patches behind it, and its place in its tile.

Plain NumPy on the host; a graph is given these tables as inputs, so that it holds for images of any size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vitcop.plugins.errors import InputError

PATCHES, GRID, GROUP = "visual_patches", "visual_grid", "visual_group"
"""Names of the tables that every family has: patches [B,V,M], grid [B,V,2] and group [B,V]."""


@dataclass(frozen=True, kw_only=True)
class TokenLayout:
    """n tokens in the order of their placeholders.

    Args:
        patches: int64 [n,M], the encoder patches that speak for a token: their scores and keys are averaged. A token
            that no patch stands for (a newline) has those of the patch before it.
        grid: fp32 [n,2], (row, column) in its tile or frame, in [0, 1).
        group: int64 [n], its tile or frame, counted over the whole batch.
        tables: further tables of the family, each [n,…]: "visual_rows" and the like.
    """

    patches: np.ndarray
    grid: np.ndarray
    group: np.ndarray
    tables: dict[str, np.ndarray] = field(default_factory=dict)

    def arrays(self) -> dict[str, np.ndarray]:
        """All tables by the names of their graph inputs."""
        return {PATCHES: self.patches, GRID: self.grid, GROUP: self.group} | self.tables


def grid_places(rows: int, columns: int) -> np.ndarray:
    """fp32 [rows·columns,2]: (row/rows, column/columns) of each cell, row by row."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.stack((row / rows, column / columns), axis=1).astype(np.float32)


def spread(layouts: Mapping[int | None, TokenLayout | None], visual_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Give each visual token of a batch its entries.

    Args:
        layouts: for each placeholder id the tokens of its kind, those of the first row first.
        visual_ids: int64 [B,V], the placeholder of each visual token.

    Returns arrays [B,V,…]. Raises InputError where a kind has more or fewer tokens than placeholders.
    """
    present = {token: layout for token, layout in layouts.items() if token is not None and layout is not None}
    tables: dict[str, np.ndarray] = {}
    for token, layout in present.items():
        here = visual_ids == token
        if here.sum() != len(layout.group):
            raise InputError(f"the prompts have {int(here.sum())} placeholders for {len(layout.group)} visual tokens")
        for name, values in layout.arrays().items():
            table = tables.setdefault(name, np.zeros((*visual_ids.shape, *values.shape[1:]), values.dtype))
            table[here] = values
    return tables
