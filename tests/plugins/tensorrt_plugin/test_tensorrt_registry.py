"""The plugin library in NVIDIA's own plugin registry, on any machine: found, used through the bindings, and let go.

The library is that of `make plugin` (or VITCOP_TENSORRT_PLUGIN), and, where headers are given, one that g++ builds.
"""

import json
import subprocess
import sys

import emulated
import op_cases
import pytest
import tensorrt_stand_ins as stand_ins
from plugin_harness import HEADERS, emulated_plugin, header_params

from vitcop.plugins.registry import ALL_OPS, ONNX_OPS
from vitcop.plugins.spec import DOMAIN
from vitcop.plugins.tensorrt import build
from vitcop.plugins.tensorrt.paths import plugin_path

VERSIONS = {name: spec.plugin_version for name, spec in ONNX_OPS.items()}

PRELUDE = (
    f"versions = {VERSIONS}"
    """
import json, sys
import numpy
import tensorrt

library, ops = sys.argv[1], json.loads(sys.argv[2])
registry = tensorrt.get_plugin_registry()

def ours():
    return sorted((c.name, c.plugin_version, c.plugin_namespace) for c in registry.all_creators if c.name in ops)

def create(name, attributes, phase="BUILD"):
    # The collection does not keep the arrays alive.
    arrays = [numpy.array([v], numpy.float32 if isinstance(v, float) else numpy.int32) for _, v in attributes]
    kinds = [getattr(tensorrt.PluginFieldType, a.dtype.name.upper()) for a in arrays]
    fields = [tensorrt.PluginField(n, a, k) for (n, _), a, k in zip(attributes, arrays, kinds)]
    creator = registry.get_creator(name, versions[name], "vitcop")
    made = creator.create_plugin(name, tensorrt.PluginFieldCollection(fields), getattr(tensorrt.TensorRTPhase, phase))
    del arrays
    return made
"""
)

LOAD = (
    PRELUDE
    + """
before = ours()
handle = registry.load_library(library)
result = {"before": before, "listed": ours(), "again": registry.load_library(library) is None}
others = [(name, *other) for name in ops for other in ((versions[name], ""), ("0", "vitcop"))]
result["elsewhere"] = [registry.get_creator(*other) is None for other in others]
result["fields"] = {n: [f.name for f in registry.get_creator(n, versions[n], "vitcop").field_names] for n in ops}
made = {n: create(n, attributes, phase) for n, attributes in ops.items() for phase in ("BUILD", "RUNTIME")}
core = {n: p.get_capability_interface(tensorrt.PluginCapabilityType.CORE) for n, p in made.items()}
result["made"] = {n: [c.plugin_name, c.plugin_version, c.plugin_namespace] for n, c in core.items()}
build = {n: p.get_capability_interface(tensorrt.PluginCapabilityType.BUILD) for n, p in made.items()}
result["outputs"] = {n: b.num_outputs for n, b in build.items()}
del made, core, build
result["refused"] = {}
for name, attributes in ops.items():
    (first, value), *others = attributes
    of_another_type = (first, 1 if isinstance(value, float) else 1.0)
    for bad in (others, [*attributes, ("keep_ratio", 1)], [of_another_type, *others]):
        result["refused"].setdefault(name, []).append(create(name, bad) is None)
registry.deregister_library(handle)
result["after"] = ours()
print(json.dumps(result))
"""
)

OPENED = PRELUDE + "import ctypes\nbefore = ours()\nctypes.CDLL(library)\nprint(json.dumps([before, ours()]))\n"


def named_ops():
    """ONNX op type -> [(attribute, value)] that are fine."""
    return {
        spec.onnx_name: [
            (attribute, value)
            for (attribute, _), value in zip(spec.attributes, op_cases.ATTRIBUTES[name][0], strict=True)
        ]
        for name, spec in ALL_OPS.items()
    }


IDENTITIES = sorted([name, version, DOMAIN] for name, version in VERSIONS.items())


@pytest.fixture(scope="module", params=["built", *header_params()])
def library(request):
    if request.param != "built":
        return emulated_plugin(request.param)
    if plugin_path() is None:
        pytest.skip("no plugin library was built: make plugin TENSORRT_INCLUDE_DIR=…")
    return plugin_path()


@pytest.fixture
def environment(tmp_path):
    if stand_ins.lean_library() is None:
        pytest.skip(f"{stand_ins.LEAN} is not installed, so there is no registry (the test extra brings it for Linux)")
    return stand_ins.stand_in_environment(tmp_path)


def test_loaded_used_and_let_go(library, environment):
    found = json.loads(stand_ins.run(environment, LOAD, library, json.dumps(named_ops())))
    assert found["before"] == found["after"] == []
    assert found["listed"] == IDENTITIES
    assert found["again"], "a library is loaded once"
    assert all(found["elsewhere"]), "creators answer to their own version and namespace alone"
    for spec in ALL_OPS.values():
        assert found["fields"][spec.onnx_name] == [name for name, _ in spec.attributes]
        assert found["made"][spec.onnx_name] == [spec.onnx_name, spec.plugin_version, DOMAIN]
        assert found["outputs"][spec.onnx_name] == len(spec.outputs)
        assert all(found["refused"][spec.onnx_name])


def test_refusals_are_told(library, environment):
    code = PRELUDE + "registry.load_library(library)\nassert create('KNormSelect', []) is None\n"
    command = [sys.executable, "-c", code, str(library), json.dumps(named_ops())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "vitcop KNormSelect: attribute 'keep_num' is missing" in done.stdout + done.stderr


def test_a_library_that_registers_itself(environment, tmp_path):
    """registration.cpp, for loaders that do no more than open a library."""
    major = stand_ins.bindings_version().split(".")[0]
    include = next((folder for folder in HEADERS if build.header_version(folder)[0] == int(major)), None)
    if include is None:
        pytest.skip(f"no headers of TensorRT {major} in VITCOP_TENSORRT_INCLUDE_DIR, whose registry the bindings have")
    plugin, out = emulated_plugin(include), tmp_path / "registering.so"
    includes = [*(f"-I{folder}" for folder in build.INCLUDES), f"-isystem{include}", f"-I{emulated.EMULATOR}"]
    # The stand-in has its registry from the lean runtime, so the linker would not keep it by itself.
    libraries = [
        "-Wl,--no-as-needed",
        plugin,
        f"-Wl,-rpath,{plugin.parent}",
        tmp_path / "lib" / f"libnvinfer.so.{major}",
    ]
    compile_it = ["g++", "-std=c++17", "-shared", "-fPIC", *includes, build.REGISTRATION, *libraries]
    subprocess.run([*compile_it, "-Wl,--allow-shlib-undefined", "-o", out], check=True)
    before, after = json.loads(stand_ins.run(environment, OPENED, out, json.dumps(named_ops())))
    assert before == []
    assert after == IDENTITIES
