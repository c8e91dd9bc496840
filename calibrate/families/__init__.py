"""Model families: where a model keeps its layers, its visual tokens and their positions. One file for each family."""

from vitcop.calibrate.families.base import Family
from vitcop.calibrate.families.registry import family_of, supported_architectures

__all__ = ["Family", "family_of", "supported_architectures"]
