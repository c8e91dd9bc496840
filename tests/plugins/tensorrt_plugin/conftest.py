"""The plugin library as g++ builds it: its kernels run on the CPU, thread by thread."""

import functools

import emulated
import pytest
from plugin_harness import PluginHarness, header_params

from vitcop.plugins.tensorrt import build


@functools.cache
def emulated_plugin(include):
    """The library compiled with the headers of one version; TensorRT could load it as any other."""
    return emulated.library(build.SOURCES, build.INCLUDES, [include])


@pytest.fixture(scope="module", params=header_params())
def include(request):
    return request.param


@pytest.fixture
def plugins(include):
    return PluginHarness(include, emulated_plugin(include))
