"""Options by plain names: what is taken, what is refused and with which words."""

import pytest

from vitcop.export.runtimes import open_target, target_names
from vitcop.export.runtimes.tensorrt import TensorRtOptions
from vitcop.export.runtimes.tensorrt.profiles import Limits
from vitcop.plugins.errors import InputError


def test_the_target_is_known_by_name():
    assert "tensorrt" in target_names() and open_target("tensorrt").name == "tensorrt"


def test_limits_and_options_come_by_plain_names():
    found = TensorRtOptions.of({"max_batch": 4, "opt_batch": 2, "precision": "fp16", "timing_cache": "t.cache"})
    assert found.limits == Limits(max_batch=4, opt_batch=2) and found.precision == "fp16"
    assert found.given == ("max_batch", "opt_batch", "precision", "timing_cache")
    # What only speeds up building, or only running looks at, makes no other engine.
    assert found.asked_for() == {"max_batch": 4, "opt_batch": 2, "precision": "fp16"}
    assert not {"timing_cache", "cuda_graph", "device", "given", "limits"} & set(found.for_key())


def test_no_device_memory_at_all_for_streamed_weights_may_be_asked_for():
    found = TensorRtOptions.of({"weight_streaming": True, "weight_streaming_budget": 0})
    assert found.weight_streaming_budget == 0


def test_a_recipe_is_checked_before_anything_runs():
    target = open_target("tensorrt")
    target.check({"max_batch": 2}, copied_weights=True)
    with pytest.raises(InputError, match="export.copy_weights: true"):
        target.check({}, copied_weights=False)
    with pytest.raises(InputError, match="no option 'max_batches'"):
        target.check({"max_batches": 2}, copied_weights=True)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_a_builder_flag_gets_a_line_of_guidance(name):
    with pytest.raises(InputError, match=f"no builder flag for {name}.*precision={name}") as refused:
        TensorRtOptions.of({name: True})
    assert "\n" not in str(refused.value)
    assert TensorRtOptions.of({name: False}).precision is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fp17": True}, "no option 'fp17' .known: max_batch"),
        ({"device": "cpu"}, "runs on cuda alone"),
        ({"max_batch": 0}, "max_batch"),
        ({"opt_text": 9, "max_text": 4}, "min ≤ opt ≤ max"),
        ({"optimization_level": 6}, "from 0 to 5"),
        ({"workspace": 0}, "GiB above 0"),
        ({"workspace": True}, "GiB above 0"),
        ({"precision": "int8"}, "fp32 or fp16 or bf16"),
        ({"profiling": "none"}, "names or detailed"),
        ({"kv_cache": "paged"}, "auto or in_place or plain"),
        ({"hardware_compatibility": "hopper"}, "ampere_plus"),
        ({"refit": "yes"}, "identical"),
        ({"layer_info": "yes"}, "true or false"),
        ({"timing_cache": 3}, "file name"),
        ({"strip": True}, "refit=identical"),
        ({"serialize_plugin": True}, "version_compatible=true"),
        ({"weight_streaming_budget": 2}, "weight_streaming=true"),
        ({"weight_streaming_budget": 0}, "weight_streaming=true"),
        ({"weight_streaming_budget": -1, "weight_streaming": True}, "0 or more"),
        ({"weight_streaming_budget": False, "weight_streaming": True}, "0 or more"),
    ],
)
def test_what_cannot_be_is_refused(values, words):
    with pytest.raises(InputError, match=words):
        TensorRtOptions.of(values)
