"""`--dry-run`: what becomes of a bundle's schedule, without packaging anything."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from vitcop.export.bundle import Bundle
from vitcop.export.runtimes.tensorrt_llm.equivalent import VisionSide, vision_side
from vitcop.export.runtimes.tensorrt_llm.families import stock_of
from vitcop.export.runtimes.tensorrt_llm.manifest import report_lines
from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PackagePlan:
    """`vitcop.export.runtimes.base.BuildPlan` of a package.

    Args:
        side: the equivalent.
        num_visual: visual tokens of one image of the encoder's own size.
        family: name of the model's family.
    """

    side: VisionSide
    num_visual: int
    family: str

    @property
    def passed(self) -> bool:
        """A schedule that has no equivalent is an error before."""
        return True

    def text(self) -> str:
        """For people."""
        stock = stock_of(self.family)
        return "\n".join(
            [
                *report_lines(self.side),
                f"visual tokens in every layer: {self.side.count(self.num_visual)} of {self.num_visual}",
                f"model package: {'yes' if stock.package else f'no: {stock.no_package}'}",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {
            "stages": [dataclasses.asdict(stage) for stage in self.side.report],
            "keep": list(self.side.keep),
            "visual_tokens": {"of": self.num_visual, "kept": self.side.count(self.num_visual)},
            "model_package": stock_of(self.family).package,
        }


def equivalent_of(bundle: Bundle) -> VisionSide:
    """The vision-side equivalent of a bundle's schedule. Raises InputError where it drops nothing."""
    from vitcop.calibrate.models.families import family_of
    from vitcop.calibrate.models.loading import load_config

    if bundle.schedule.is_empty:
        raise InputError(f"{bundle.path}: its schedule drops nothing; serve the model with TensorRT-LLM as it is")
    return vision_side(bundle.schedule, vision_score=family_of(load_config(bundle.path)).vision_scores[0])


def plan(bundle: Bundle) -> PackagePlan:
    """What `build` would package."""
    facts = bundle.manifest
    return PackagePlan(side=equivalent_of(bundle), num_visual=facts.architecture.num_visual, family=facts.family)
