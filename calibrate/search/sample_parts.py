"""The sample sets of a search, cut into the parts that are worked on at once."""

import math
import random
from collections.abc import Sequence

from vitcop.calibrate.data.samples import Sample
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.plugins.errors import InputError

CALIBRATION, SELECTION = "calibration", "selection"


def rungs(samples: Sequence[Sample], settings: CalibrationSettings, seed: int) -> list[list[Sample]]:
    """The parts that the rounds of successive halving add, in an order drawn by the seed."""
    order = list(samples)
    random.Random(seed).shuffle(order)
    cuts = sorted({math.ceil(share * len(order)) for share in settings.rungs})
    return [order[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]


def pieces(samples: Sequence[Sample], size: int) -> list[Sequence[Sample]]:
    return [samples[i : i + size] for i in range(0, len(samples), size)]


def check_samples(calibration_samples: Sequence[Sample], selection_samples: Sequence[Sample]) -> None:
    for name, samples in ((CALIBRATION, calibration_samples), (SELECTION, selection_samples)):
        if not samples:
            raise InputError(f"the {name} set is empty")
    shared = {sample.content_digest for sample in calibration_samples} & {
        sample.content_digest for sample in selection_samples
    }
    if shared:
        first = next(sample.id for sample in selection_samples if sample.content_digest in shared)
        raise InputError(
            f"{len(shared)} samples are in both the calibration and the selection set, first {first}; the choice "
            "needs samples of its own"
        )
