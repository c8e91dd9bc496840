"""One ONNX Runtime session for one graph of a bundle, with the weights read in place from the checkpoint's shards.

ONNX Runtime resolves the shards against a folder given as a session option and refuses links there. Shards of the
Hugging Face cache are links, so their tensors are handed over as memory-mapped values instead.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitcop.export.bundle import Bundle
from vitcop.export.runtimes.onnxruntime.causal_blocks import cut_into_causal_blocks
from vitcop.export.runtimes.onnxruntime.options import OnnxRuntimeOptions
from vitcop.plugins.errors import InputError, MissingError

_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
_FATAL = 4  # Errors come back as exceptions; stderr belongs to progress and logs.
# Full fp32 products on the GPU too: TF32 alone would break the gate on logits.
_PROVIDER_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}
_LONGEST = 300  # Characters of ONNX Runtime's own message that are passed on.
_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


class GraphSession:
    """A graph of a bundle, ready to run.

    Args:
        bundle: an opened bundle.
        part: "vision", "prefill" or "decode".
        options: device and threads.
        profile_prefix: path prefix for ONNX Runtime's profile, or None for no profiling.
    """

    def __init__(
        self, bundle: Bundle, part: str, options: OnnxRuntimeOptions, *, profile_prefix: str | None = None
    ) -> None:
        import onnxruntime

        if bundle.manifest.architecture.dtype == "bfloat16" and options.device == "cpu":
            raise InputError(
                f"{bundle.path}: ONNX Runtime has no bfloat16 MatMul on the CPU; export a float32 or float16 "
                "checkpoint, or use --device cuda"
            )
        self.part, self.device, self._source = part, options.device, bundle.graph(part)
        model = _load_model(self._source)
        external = list(_external_tensors(model))
        _check_external(external, bundle, self._source)
        if part == "prefill" and options.device == "cpu":
            cut_into_causal_blocks(model)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _FATAL
        settings.inter_op_num_threads = 1
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        folder = bundle.weights_folder.resolve()
        if any((folder / record.name).is_symlink() for record in bundle.manifest.weights.files):
            # The session refers to this memory: it has to live as long as the session.
            self._mapped = {tensor.name: _mapped_value(tensor, folder) for tensor in external}
            settings.add_external_initializers(list(self._mapped), list(self._mapped.values()))
        else:
            settings.add_session_config_entry(_FOLDER_OPTION, str(folder))
        if profile_prefix is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = profile_prefix
            name_function_nodes(model)
        self.vitcop_functions = tuple(function.name for function in model.functions if function.domain == "vitcop")
        provider = options.provider
        try:
            self.session = onnxruntime.InferenceSession(
                model.SerializeToString(), settings, providers=[(provider, _PROVIDER_OPTIONS.get(provider, {}))]
            )
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own.
            raise _as_ours(error, self._source, "cannot be loaded") from None
        if self.session.get_providers()[0] != provider:
            raise MissingError(
                f"onnxruntime could not start {provider} on this machine (driver or CUDA libraries); use --device cpu"
            )
        self.inputs = {item.name: item for item in self.session.get_inputs()}
        self.outputs = {item.name: item for item in self.session.get_outputs()}

    def run(self, feeds: Mapping[str, Any], *, stay: Iterable[str] = ()) -> dict[str, Any]:
        """Run the graph.

        Args:
            feeds: NumPy arrays (cast to the graph's type) or OrtValues (used as they are, without a copy).
            stay: names of outputs that stay on the device.

        Returns all outputs by name: OrtValues for those in `stay`, NumPy arrays for the others.
        """
        stay = frozenset(stay)
        binding = self.session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value, dtype=_NUMPY_TYPES[self.inputs[name].type]))
            else:
                binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, self.device if name in stay else "cpu")
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:
            raise _as_ours(error, self._source, "failed while running") from None
        results = zip(self.outputs, binding.get_outputs(), strict=True)
        return {name: value if name in stay else value.numpy() for name, value in results}


def name_function_nodes(model: Any) -> None:
    """Name every node of every function body, in place: inlining forgets the function of unnamed ones."""
    for function in model.functions:
        for index, node in enumerate(function.node):
            if not node.name:
                node.name = f"n{index}_{node.op_type}"


def _load_model(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable home.
        raise InputError(f"{path}: not a readable ONNX file ({_one_line(error)}); export the bundle again") from None


def _external_tensors(model: Any) -> Iterator[Any]:
    """All tensors of a model whose bytes lie in another file, in graphs, subgraphs and function bodies."""
    from onnx import TensorProto

    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        found: list[Any] = []
        if graphs:
            graph = graphs.pop()
            found += graph.initializer
            nodes += graph.node
        else:
            for attribute in nodes.pop().attribute:
                found += [attribute.t, *attribute.tensors]
                graphs += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
        yield from (tensor for tensor in found if tensor.data_location == TensorProto.EXTERNAL)


def _place(tensor: Any) -> tuple[str, int, int]:
    """(file name, offset, length) of an external tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries.get("offset", 0)), int(entries["length"])


def _check_external(tensors: list[Any], bundle: Bundle, source: Path) -> None:
    """Every external tensor lies inside a shard of the manifest: older ONNX Runtimes would follow any path."""
    sizes = {record.name: record.size for record in bundle.manifest.weights.files}
    for tensor in tensors:
        try:
            name, offset, length = _place(tensor)
        except (KeyError, ValueError):
            raise InputError(
                f"{source}: weight {tensor.name!r} has no proper location; export the bundle again"
            ) from None
        if name not in sizes:
            raise InputError(
                f"{source}: weight {tensor.name!r} lies in {name!r}, which the manifest does not list; export the "
                "bundle again"
            )
        if offset < 0 or length < 0 or offset + length > sizes[name]:
            raise InputError(
                f"{source}: weight {tensor.name!r} reaches beyond the end of {name!r}; export the bundle again"
            )


def _mapped_value(tensor: Any, folder: Path) -> Any:
    """An external tensor as an OrtValue over mapped memory, without a copy."""
    import onnx
    import onnxruntime

    name, offset, length = _place(tensor)
    raw = np.memmap(folder / name, dtype=np.uint8, mode="r", offset=offset, shape=(length,))
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            raw.view(np.uint16).reshape(tensor.dims), tensor.data_type
        )
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return onnxruntime.OrtValue.ortvalue_from_numpy(raw.view(kind).reshape(tuple(tensor.dims)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST] or type(error).__name__


def _as_ours(error: Exception, source: Path, what: str) -> Exception:
    """One of our errors for one of ONNX Runtime's; anything else (a bug of ours) stays what it is."""
    line = _one_line(error)
    if isinstance(error, MemoryError) or "Failed to allocate memory" in line or "bad_alloc" in line:
        return MissingError(f"{source}: not enough memory for ONNX Runtime; use a smaller batch or a machine with more")
    # Failures under an I/O binding come as plain RuntimeErrors.
    if isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime"):
        return InputError(f"{source}: {what} by ONNX Runtime: {line}")
    return error
