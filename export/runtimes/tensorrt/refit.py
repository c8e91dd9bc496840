"""Putting the bundle's weights into engines that were built without (`strip`)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vitcop.export.bundle import Bundle
from vitcop.export.runtimes.tensorrt.decode_graph import cut_attention
from vitcop.export.runtimes.tensorrt.network import load_graph, one_line, parser_bytes
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    import tensorrt as trt


def refitting(
    bundle: Bundle, part: str, sidecar: dict[str, Any], logger: "trt.ILogger"
) -> "Callable[[trt.ICudaEngine], None] | None":
    """What has to be done to a deserialized engine before it runs; None where its weights are in it."""
    if not sidecar["inputs"]["options"]["strip"]:
        return None

    def refit(engine: "trt.ICudaEngine") -> None:
        import tensorrt as trt

        source = bundle.graph(part)
        model = load_graph(source)
        if part == "decode" and sidecar["kv_cache"]["form"] != "plain":
            cut_attention(model)
        refitter = trt.Refitter(engine, logger)
        reader = trt.OnnxParserRefitter(refitter, logger)
        if not reader.refit_from_bytes(parser_bytes(model), path=str(source)):
            error: trt.ParserError | None = reader.get_error(0) if reader.num_errors else None
            reason = one_line(error.desc()) if error is not None else "no reason given"
            raise InputError(f"{source}: its weights do not fit the stripped engine ({reason}); build it again")
        if not refitter.refit_cuda_engine():
            missing = ", ".join(refitter.get_missing_weights()[:3])
            raise InputError(f"{source}: the stripped engine lacks weights ({missing}); build it again without strip")

    return refit
