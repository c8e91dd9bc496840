"""The builder from end to end over a stand-in that builds nothing (fake_tensorrt says what that proves)."""

import json
from pathlib import Path
from types import SimpleNamespace

import fake_tensorrt
import numpy as np
import pytest
from real_api import RELEASES, real_bindings

from vitcop.export.bundle import GRAPHS
from vitcop.export.runtimes import open_target
from vitcop.export.runtimes.tensorrt import builder, sidecar
from vitcop.export.runtimes.tensorrt.estimate import GIB
from vitcop.plugins.errors import InputError, MissingError


@pytest.fixture
def tensorrt(monkeypatch, bundle):
    """The stand-in, a machine with a GPU of 80 GiB, and some shared library in the plugin's place."""
    cuda = SimpleNamespace(get_device_capability=lambda: (9, 0), mem_get_info=lambda: (80 * GIB, 80 * GIB))
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0"))
    library = Path(np._core._multiarray_umath.__file__)
    monkeypatch.setattr(builder, "need_gpu", lambda: torch)
    monkeypatch.setattr(sidecar, "need_gpu", lambda: torch)
    monkeypatch.setattr(builder, "plugin_library", lambda needed: library if needed else None)
    return fake_tensorrt.install(monkeypatch)


@pytest.fixture
def own(bundle, tmp_path):
    from vitcop.export.bundle import Bundle

    for path in bundle.path.iterdir():
        if path.is_file():
            (tmp_path / path.name).hardlink_to(path)
    return Bundle.open(tmp_path)


def test_engines_and_their_sidecar(own, tensorrt):
    target = open_target("tensorrt")
    engine = target.build(own, {"max_batch": 4, "layer_info": True})
    assert not engine.reused and engine.path == own.engines_folder / "tensorrt" / engine.key
    assert {path.name for path in engine.path.iterdir()} == {
        "engine.json",
        *(f"{part}.{end}" for part in GRAPHS for end in ("plan", "layers.json")),
    }
    assert not list(engine.path.parent.glob(".*"))
    assert engine.sidecar["schedule"] == json.loads(own.schedule.to_json())
    for graph in engine.sidecar["graphs"].values():
        assert set(graph["profile"]) == {name for name, row in graph["tensors"].items() if row[0] == "input"}
    capacity = engine.sidecar["kv_cache"]["capacities"][0]
    assert [shape[2] for shape in engine.sidecar["graphs"]["decode"]["profile"]["past_key_0"]] == [capacity] * 3
    told = json.loads((engine.path / "engine.json").read_text())
    assert told["machine"]["sm"] == "9.0" and told["kv_cache"]["form"] == "lengths"
    assert told["graphs"]["prefill"]["plugin_layers"] and told["inputs"]["profiles"]["prefill"]["input_ids"][2][0] == 4
    again = target.build(own, {"max_batch": 4, "layer_info": True})
    assert again.reused and "reused" in again.reason
    other = target.build(own, {"max_batch": 2})
    assert "options" in other.reason and other.key != engine.key


def test_the_decode_network_is_joined(own, tensorrt):
    engine = open_target("tensorrt").build(own)
    network, config = list(fake_tensorrt.BUILT.values())[2]
    facts, (first, *_) = own.manifest.architecture, engine.sidecar["kv_cache"]["capacities"]
    names = [tensor.name for tensor in network._in]
    assert not any("attended" in name or "attention_mask" in name for name in names)
    assert {"past_key_0", "past_value_2", "write_index_2", "kv_length_0"} <= set(names)
    outputs = [tensor.name for tensor in network._out]
    assert outputs[0] == "logits" and set(outputs[1:]) == {
        f"present_{p}_{i}" for p in ("key", "value") for i in range(3)
    }
    cache = next(tensor for tensor in network._in if tensor.name == "past_key_0")
    assert cache.shape == (-1, facts.num_kv_heads, first, facts.head_dim)
    attentions = [layer for layer in network._layers if isinstance(layer, fake_tensorrt.IAttention)]
    assert [layer.key_value_lengths.name for layer in attentions] == ["kv_length_0", "kv_length_1", "kv_length_2"]
    assert all(layer.decomposable for layer in attentions)
    # What the cut left open reads the attention again.
    read = {id(tensor) for layer in network._layers for tensor in layer._inputs}
    assert all(id(layer.get_output(0)) in read for layer in attentions)
    (profile,) = config._profiles
    assert set(profile._shapes) == set(names) and profile._shapes["past_key_0"][0] == (1, *cache.shape[1:])


def test_options_reach_the_configuration(own, tensorrt, tmp_path):
    chosen = {"workspace": 2, "optimization_level": 1, "profiling": "names", "hardware_compatibility": "ampere_plus"}
    chosen |= {"version_compatible": True, "serialize_plugin": True, "weight_streaming": True, "refit": "any"}
    chosen |= {"timing_cache": str(tmp_path / "t.cache"), "kv_cache": "plain"}
    open_target("tensorrt").build(own, chosen)
    config = fake_tensorrt.CONFIGS[0]
    assert {flag.name for flag in config._flags} == {"VERSION_COMPATIBLE", "WEIGHT_STREAMING", "REFIT"}
    assert config._pools == {"WORKSPACE": 2 * GIB} and config.builder_optimization_level == 1
    assert config.profiling_verbosity.name == "LAYER_NAMES_ONLY" and config.max_aux_streams == 0
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS" and len(config.plugins_to_serialize) == 1
    assert (tmp_path / "t.cache").read_bytes() == b"timings"
    (tmp_path / "t.cache").write_bytes(b"of another GPU")
    with pytest.raises(InputError, match="not a timing cache for this GPU"):
        open_target("tensorrt").build(own, chosen | {"max_batch": 2})


def test_half_precision_is_built_from_converted_graphs_and_leaves_nothing_else(own, tensorrt):
    engine = open_target("tensorrt").build(own, {"precision": "fp16"})
    tables = [engine.sidecar["graphs"][part]["tensors"] for part in GRAPHS]
    assert tables[0]["visual_features"][1] == "HALF" and tables[2]["past_key_0"][1] == "HALF"
    assert {path.suffix for path in engine.path.iterdir()} == {".plan", ".json"}


def test_a_lost_plugin_layer_fails_the_build_and_leaves_nothing(own, tensorrt):
    fake_tensorrt.LAYER_TYPE[0] = "kgen"
    with pytest.raises(InputError, match="no plugin layer for"):
        open_target("tensorrt").build(own)
    assert not list((own.engines_folder / "tensorrt").iterdir())


@pytest.mark.parametrize("profiling", ["names", "detailed"])
def test_layers_of_a_function_body_that_bear_the_name_of_their_call_are_no_plugins(own, tensorrt, profiling):
    fake_tensorrt.PARSED[0] = "MATRIX_MULTIPLY"
    with pytest.raises(InputError, match="parser made no plugin layer of .*ScoreSelect"):
        open_target("tensorrt").build(own, {"profiling": profiling})
    assert not list((own.engines_folder / "tensorrt").iterdir())


@pytest.mark.parametrize("form", ["mask", "key_value_lengths"])
def test_an_attention_that_does_not_take_its_bound_is_found(own, tensorrt, monkeypatch, form):
    if form == "mask":
        monkeypatch.delattr(fake_tensorrt.INetworkDefinition, "add_attention_v2")
    refusing = property(lambda self: None, lambda self, value: None)
    monkeypatch.setattr(fake_tensorrt.IAttention, form, refusing)
    with pytest.raises(InputError, match=f"refuses {form} of an attention.*kv_cache=plain"):
        open_target("tensorrt").build(own)


def test_a_timing_cache_without_a_folder_is_refused_before_anything_is_built(own, tensorrt, tmp_path):
    for place in (tmp_path / "none" / "t.cache", tmp_path):
        with pytest.raises(InputError, match="timing_cache .*name another"):
            open_target("tensorrt").build(own, {"timing_cache": str(place)})
    assert not fake_tensorrt.CONFIGS and not (own.engines_folder / "tensorrt").exists()


def test_without_the_plugin_library_the_build_ends_with_what_to_do(own, tensorrt, monkeypatch):
    monkeypatch.setattr(builder, "plugin_library", lambda needed: None)
    with pytest.raises(MissingError, match="make plugin"):
        open_target("tensorrt").build(own)


def test_a_gpu_that_is_too_small_is_refused(own, tensorrt, monkeypatch):
    builder.need_gpu().cuda.mem_get_info = lambda: (GIB // 2, GIB)
    with pytest.raises(MissingError, match="device memory"):
        open_target("tensorrt").build(own)


@pytest.mark.parametrize("release", RELEASES)
def test_the_stand_in_has_no_name_of_its_own(release, tmp_path):
    bindings = real_bindings(release, tmp_path)
    newer = set() if release.startswith("11") else {"CausalMaskKind", "add_attention_v2", "key_value_lengths"}
    for kind in fake_tensorrt.CLASSES:
        public = {name for name in vars(kind) if not name.startswith("_")} - newer
        assert all(bindings.has(kind.__name__, name) for name in public), kind
    for owner, names in fake_tensorrt.NAMES.items():
        assert owner in newer or all(bindings.has(owner, name) for name in names), owner
