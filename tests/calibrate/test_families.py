"""Which models a family takes, and what it says to the others."""

import json
import shutil

import pytest
from transformers import AutoConfig

from vitcop.calibrate.models.families import family_of
from vitcop.plugins.errors import InputError


def changed(tiny, tmp_path, **changes):
    """The tiny model's config with some dotted keys changed."""
    folder = tmp_path / "changed"
    shutil.copytree(tiny.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        part = config
        for name in parents:
            part = part[name]
        part[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return AutoConfig.from_pretrained(folder)


def test_takes_a_clip_llava(tiny):
    assert family_of(tiny.model.config).name == "llava"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vision_config__model_type": "siglip_vision_model"}, "vision_config.model_type"),
        ({"text_config__model_type": "mistral"}, "text_config.model_type"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy"),
        ({"vision_feature_layer": [-2, -1]}, "vision_feature_layer"),
        ({"architectures": ["PaliGemmaForConditionalGeneration"]}, "PaliGemmaForConditionalGeneration"),
    ],
)
def test_refuses_by_name(tiny, tmp_path, changes, named):
    with pytest.raises(InputError, match=named) as refusal:
        family_of(changed(tiny, tmp_path, **changes))
    assert "\n" not in str(refusal.value)
