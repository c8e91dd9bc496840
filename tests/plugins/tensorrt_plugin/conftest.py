"""The plugin library as g++ builds it, in the hands of the harness, for each folder of headers."""

import pytest
from plugin_harness import PluginHarness, emulated_plugin, header_params


@pytest.fixture(scope="module", params=header_params())
def include(request):
    return request.param


@pytest.fixture
def plugins(include):
    return PluginHarness(include, emulated_plugin(include))
