"""Building TensorRT engines of a bundle: vision, prefill and decode, with their sidecar, in one folder written at once.

Not run on a real TensorRT yet (docs/tensorrt.md keeps the list).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.core.digests import sha256_of_file
from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.bundle.versions import installed_versions
from vitcop.export.runtimes.base import EngineInfo
from vitcop.export.runtimes.engine_folder import EngineFolder
from vitcop.export.runtimes.tensorrt.decode_graph import Cut, cut_attention
from vitcop.export.runtimes.tensorrt.estimate import free_host_memory
from vitcop.export.runtimes.tensorrt.installation import load_tensorrt, make_runtime, need_gpu, register_plugin
from vitcop.export.runtimes.tensorrt.kv_cache import KvForm, aliases, check_aliases, input_shapes, join, kv_form
from vitcop.export.runtimes.tensorrt.layers import (
    check_network_plugins,
    check_plugin_layers,
    engine_layers,
    layer_names,
)
from vitcop.export.runtimes.tensorrt.network import (
    check_creators,
    load_graph,
    make_builder,
    make_logger,
    make_network,
    parse,
)
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.export.runtimes.tensorrt.preparation import Preparation, plugin_library, prepare, refuse_problems
from vitcop.export.runtimes.tensorrt.profiles import Profile
from vitcop.export.runtimes.tensorrt.settings import add_profile, check_timing_cache, configure, save_timing_cache
from vitcop.export.runtimes.tensorrt.sidecar import MachineFacts, sidecar_details
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    import tensorrt as trt


def build(bundle: Bundle, options: TensorRtOptions | None = None) -> EngineInfo:
    """Build the engines into `engines/tensorrt/<key>/`; the same inputs on the same machine reuse them.

    Raises:
        InputError: the bundle does not fit TensorRT, TensorRT refuses a graph, or a plugin is not in a built engine.
        MissingError: TensorRT, a GPU, the plugin library or memory is missing.
    """
    options = options or TensorRtOptions()
    check_timing_cache(options)
    prepared = prepare(bundle, options)
    refuse_problems(prepared)
    load_tensorrt()
    torch = need_gpu()
    plugin = plugin_library(prepared.needs_plugin)
    form = kv_form(options.kv_cache)
    machine = MachineFacts.here(plugin)
    place = EngineFolder(bundle, "tensorrt", engine_inputs(bundle, options, prepared, form, machine))
    there = place.existing(f"reused engine {place.key}: graphs, weights, options, versions and machine are the same")
    if there is not None:
        return there
    prepared.memory.check(
        host=free_host_memory(),
        device=torch.cuda.mem_get_info()[0],
        streaming=options.weight_streaming,
        where=str(bundle.path),
    )
    reason = place.why()
    with place.staging() as staging:
        maker = EngineMaker(bundle, options, prepared, form, plugin)
        graphs = {part: maker.make(part, staging) for part in GRAPHS}
        kv = {"form": form, "capacities": list(prepared.capacities), "aliases": dict(aliases(maker.cuts))}
        details = sidecar_details(machine, schedule=json.loads(bundle.schedule.to_json()), graphs=graphs, kv=kv)
        return place.finish(staging, details, reason)


class EngineMaker:
    """Makes one engine after another; TensorRT's builder, its log and the timing cache are shared.

    Args:
        form: of the KV caches.
        plugin: the plugin library, or None where no graph needs it.
    """

    def __init__(
        self, bundle: Bundle, options: TensorRtOptions, prepared: Preparation, form: KvForm, plugin: Path | None
    ) -> None:
        import tensorrt as trt

        self.bundle, self.options, self.prepared, self.form, self.plugin = bundle, options, prepared, form, plugin
        self.cuts: tuple[Cut, ...] = ()
        self.logger = make_logger()
        self.builder: trt.Builder = make_builder(self.logger)
        registry: trt.IPluginRegistry = trt.get_plugin_registry()
        if plugin is not None:
            register_plugin(registry, str(plugin))
        for nodes in prepared.nodes.values():
            check_creators(registry, nodes, plugin)

    def make(self, part: str, folder: Path) -> dict[str, Any]:
        """Build one graph's engine into `folder`; returns its row of the sidecar."""
        import tensorrt as trt

        source = self._source(part, folder)
        model = load_graph(source)
        in_place = part == "decode" and self.form != "plain"
        if in_place:
            self.cuts = cut_attention(model)
        nodes, where = self.prepared.nodes[part], str(self.bundle.graph(part))
        network = make_network(self.builder)
        # The parser holds the weights until the engine is built.
        parser = parse(network, self.logger, model, source)
        check_network_plugins(network, nodes, where)
        if in_place:
            facts = self.bundle.manifest.architecture
            join(network, self.cuts, self.prepared.capacities, self.form, facts)
        config = configure(self.builder, self.options, self.plugin)
        shapes = self._shapes(part)
        add_profile(self.builder, config, network, shapes)
        plan = self.builder.build_serialized_network(network, config)
        # The weights as read, before those of the engine come to them.
        del network, parser
        if plan is None:
            raise InputError(f"{where}: TensorRT could not build an engine; see its messages above")
        path = folder / f"{part}.plan"
        path.write_bytes(memoryview(plan))
        if self.options.timing_cache is not None:
            save_timing_cache(config, Path(self.options.timing_cache))
        runtime = make_runtime(self.logger, self.options.for_key(), None)
        engine: trt.ICudaEngine = runtime.deserialize_cuda_engine(plan)
        del plan
        if engine is None:
            raise InputError(f"{where}: the engine that was built cannot be read back")
        report = engine_layers(engine)
        if in_place:
            check_aliases(engine, aliases(self.cuts), where)
        check_plugin_layers(report, nodes, where)
        if self.options.layer_info:
            text = json.dumps(report, indent=2, sort_keys=True)
            (folder / f"{part}.layers.json").write_text(text + "\n", encoding="utf-8")
        if source.parent == folder:
            self._forget(source, model)
        return {
            "plan": path.name,
            "sha256": sha256_of_file(path),
            "bytes": path.stat().st_size,
            "num_layers": len(layer_names(report)),
            "plugin_layers": [node.name for node in nodes if node.plugin],
            "device_memory_bytes": engine.device_memory_size_v2,
            "tensors": tensor_table(engine),
            "profile": profile_table(shapes),
        }

    def _source(self, part: str, folder: Path) -> Path:
        """The graph in the type that is built: the bundle's own, or converted into the staging folder."""
        source = self.bundle.graph(part)
        if not self.prepared.converted:
            return source
        from vitcop.export.runtimes.tensorrt.precision import convert_graph

        destination = folder / source.name
        convert_graph(source, destination, self.prepared.dtype)
        return destination

    def _forget(self, source: Path, model: Any) -> None:
        """Remove a converted graph and the weights that were written for it: the engine holds them now."""
        from onnx import TensorProto

        names = {source.name}
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
        for name in names:
            (source.parent / name).unlink(missing_ok=True)

    def _shapes(self, part: str) -> Mapping[str, Profile]:
        own = self.prepared.profiles[part]
        if part != "decode" or self.form == "plain":
            return own
        batches = [shape[0] for shape in (own["input_ids"].min, own["input_ids"].opt, own["input_ids"].max)]
        facts = self.bundle.manifest.architecture
        added = input_shapes(self.cuts, self.prepared.capacities, self.form, facts)
        made = {
            name: Profile(*(tuple(batch if size is None else size for size in shape) for batch in batches))
            for name, shape in added.items()
        }
        return {"input_ids": own["input_ids"], "position_ids": own["position_ids"], **made}


def tensor_table(engine: "trt.ICudaEngine") -> dict[str, Any]:
    """Every input and output of an engine: [direction, type, shape with -1 for what varies]."""
    import tensorrt as trt

    table = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        side = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
        table[name] = [side, engine.get_tensor_dtype(name).name, list(engine.get_tensor_shape(name))]
    return table


def profile_table(shapes: Mapping[str, Profile]) -> dict[str, list[list[int]]]:
    """For every input [min, opt, max]."""
    return {name: [list(shape.min), list(shape.opt), list(shape.max)] for name, shape in shapes.items()}


def engine_inputs(
    bundle: Bundle, options: TensorRtOptions, prepared: Preparation, form: KvForm, machine: MachineFacts
) -> dict[str, Any]:
    """All that the engines depend on; their key is its hash."""
    return {
        "schedule": bundle.manifest.schedule_hash,
        "graphs": {part: bundle.graph_hash(part) for part in GRAPHS},
        "weights": {record.name: record.sha256 for record in bundle.manifest.weights.files},
        "options": options.for_key(),
        "dtype": prepared.dtype,
        "kv_form": form,
        "profiles": {part: profile_table(shapes) for part, shapes in prepared.profiles.items()},
        "machine": asdict(machine),
        "versions": installed_versions(("vitcop",)),
    }
