"""Model families: where a model keeps its layers, its visual tokens and their positions. One file for each family."""

from vitcop.calibrate.models.families.base import Family
from vitcop.calibrate.models.families.registry import family_of, supported_architectures

__all__ = ["Family", "family_of", "supported_architectures"]
