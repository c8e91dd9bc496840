"""Rules of other methods, in house versions made from their published descriptions, to be measured beside ours.

Each meets a budget by the same accounting as a schedule (mean over the decoder layers of visual tokens present /
visual tokens of the unpruned model) to within one token, or says that it cannot. One file for each rule.
"""

from vitcop.calibrate.baselines.base import Rival
from vitcop.calibrate.baselines.fastv import FastV
from vitcop.calibrate.baselines.pyramiddrop import PyramidDrop
from vitcop.calibrate.baselines.visionzip import VisionZip

RIVALS: dict[str, Rival] = {rule.name: rule for rule in (FastV(), VisionZip(), PyramidDrop())}
"""By name, as tables show them."""

__all__ = ["RIVALS", "FastV", "PyramidDrop", "Rival", "VisionZip"]
