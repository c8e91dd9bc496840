"""The hand-made toy bundle and the tiny models serve these tests too."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "bundle")]
