"""A session over the stand-in for TensorRT: what it tells the engine before anything runs, and what it refuses."""

import fake_tensorrt
import pytest
import torch
from host_sessions import HostStream
from test_builder import own, tensorrt  # noqa: F401 (fixtures)

from vitcop.export.runtimes import open_target
from vitcop.export.runtimes.tensorrt.session import Buffers, EngineSession
from vitcop.plugins.errors import InputError

ALL = fake_tensorrt.ICudaEngine.streamable_weights_size


@pytest.fixture
def opened(own, tensorrt):  # noqa: F811
    """(options of the build, settings of the session) -> the vision engine, opened."""

    def opened(chosen, **settings):
        plan = open_target("tensorrt").build(own, chosen).path / "vision.plan"
        runtime, buffers = fake_tensorrt.Runtime(None), Buffers(torch.device("cpu"))
        return EngineSession("vision", plan, runtime, HostStream(), buffers, **settings)

    return opened


@pytest.mark.parametrize(("budget", "found"), [(None, ALL // 4), (0, 0), (300, 300)])
def test_an_engine_of_streamed_weights_streams_them(opened, budget, found):
    session = opened({"weight_streaming": True}, streaming=True, streaming_budget=budget)
    assert session.streamed() == (found, ALL)


def test_other_engines_are_left_alone(opened):
    assert opened({}).streamed() == (ALL, ALL)


def test_a_shape_outside_of_the_profile_names_every_limit(opened):
    session = opened({})
    with pytest.raises(InputError, match="outside what the engine was built for") as refused:
        session.run({name: torch.zeros((9, 9)) for name in session.inputs})
    names = ("max_batch", "min_text", "max_text", "min_images", "max_images", "min_visual", "max_visual")
    assert all(name in str(refused.value) for name in names)
