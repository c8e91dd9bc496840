"""NVIDIA's real bindings and, where the lean runtime is installed, its real plugin registry, without TensorRT."""

import json

import tensorrt_stand_ins as stand_ins

LOOK = """
import json
import tensorrt
import tensorrt_bindings

assert tensorrt is tensorrt_bindings
registry = tensorrt.get_plugin_registry()
names = [creator.name for creator in registry.all_creators] if registry else None
print(json.dumps({"version": tensorrt.__version__, "creators": names, "types": len(tensorrt.DataType.__members__)}))
"""

BUILD = """
import tensorrt

try:
    tensorrt.Builder(tensorrt.Logger())
except TypeError as error:
    print(error)
"""


def test_the_bindings_can_be_imported(tmp_path):
    found = json.loads(stand_ins.run(stand_ins.stand_in_environment(tmp_path), LOOK))
    assert found["version"] == stand_ins.bindings_version()
    assert found["types"] >= 8
    if stand_ins.lean_library():
        assert found["creators"], "NVIDIA's registry is never empty"
    else:
        assert found["creators"] is None


def test_nothing_can_be_built_with_the_stand_ins(tmp_path):
    assert "nullptr" in stand_ins.run(stand_ins.stand_in_environment(tmp_path), BUILD)
