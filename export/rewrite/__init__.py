"""The rewrite: passes over captured graphs that insert token dropping. One pass, one file."""

from vitcop.export.rewrite.drop_tokens import DropTokensPass
from vitcop.export.rewrite.merge_features import MergeFeaturesPass
from vitcop.export.rewrite.passes import Pass, PassError, Sequence
from vitcop.export.rewrite.split_cache import SplitCachePass
from vitcop.export.rewrite.vision_stage import VisionStagePass

__all__ = ["DropTokensPass", "MergeFeaturesPass", "Pass", "PassError", "Sequence", "SplitCachePass", "VisionStagePass"]
