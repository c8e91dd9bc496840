"""Samples as JSON, so that a worker sees the very samples of the process that read them. No torch."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vitcop.calibrate.data.samples import Sample


def samples_to_json(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """With absolute paths of images and videos."""
    return [
        {
            **asdict(sample),
            "images": [str(path.resolve()) for path in sample.images],
            "video": None if sample.video is None else str(sample.video.resolve()),
        }
        for sample in samples
    ]


def samples_from_json(data: Sequence[dict[str, Any]]) -> list[Sample]:
    """What `samples_to_json` made."""
    return [
        Sample(
            **{
                **item,
                "images": tuple(map(Path, item["images"])),
                "video": None if item["video"] is None else Path(item["video"]),
                "messages": tuple(item["messages"]),
                "answers": tuple(item["answers"]),
                "picture_digests": tuple(item["picture_digests"]),
            }
        )
        for item in data
    ]
