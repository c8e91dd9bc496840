"""Running the TensorRT engines of a bundle behind the same protocol as the ONNX Runtime runner.

Torch CUDA tensors are the device memory, used again from prompt to prompt; everything runs on one stream.

Not run on a real TensorRT yet; `engine_run` and `decoding` are tested over sessions of ONNX Runtime.
"""

from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.runtimes.tensorrt.decoding import Decoder, InPlaceDecoder, PlainDecoder
from vitcop.export.runtimes.tensorrt.engine_run import EngineRun
from vitcop.export.runtimes.tensorrt.engines import find_engine
from vitcop.export.runtimes.tensorrt.estimate import GIB
from vitcop.export.runtimes.tensorrt.installation import load_tensorrt, make_runtime, need_gpu
from vitcop.export.runtimes.tensorrt.layers import make_profiler
from vitcop.export.runtimes.tensorrt.network import make_logger
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.export.runtimes.tensorrt.refit import refitting
from vitcop.export.runtimes.tensorrt.session import Buffers, EngineSession
from vitcop.export.runtimes.tensorrt.streams import CudaStream


class TensorRTRunner(EngineRun):
    """`vitcop.calibrate.run.runner.Runner` of a bundle whose engines are built.

    Args:
        bundle: an opened bundle.
        options: which engine, where there are several, and how to run it.

    Raises InputError where no built engine fits bundle, options and machine, MissingError where TensorRT, the GPU or
    memory is missing.
    """

    def __init__(self, bundle: Bundle, options: TensorRtOptions | None = None) -> None:
        options = options or TensorRtOptions()
        load_tensorrt()
        need_gpu()
        self.folder, self.sidecar, plugin = find_engine(bundle, options)
        # Log and runtime have to live as long as the engines.
        self._logger = make_logger()
        self._runtime = make_runtime(self._logger, self.sidecar["inputs"]["options"], plugin)
        stream = CudaStream()
        with stream.active():
            buffers = Buffers(stream.device)
            budget = options.weight_streaming_budget
            self._sessions = {
                part: EngineSession(
                    part,
                    self.folder / self.sidecar["graphs"][part]["plan"],
                    self._runtime,
                    stream,
                    buffers,
                    streaming=self.sidecar["inputs"]["options"]["weight_streaming"],
                    streaming_budget=int(budget * GIB) if budget is not None else None,
                    refit=refitting(bundle, part, self.sidecar, self._logger),
                )
                for part in GRAPHS
            }
            decoder = self._decoder_of(bundle, buffers, options)
        dtype = self.sidecar["inputs"]["dtype"]
        super().__init__(bundle, self._sessions["vision"], self._sessions["prefill"], decoder, stream, dtype=dtype)

    def profile(self, part: str, times: dict[str, float]) -> None:
        """From now on, add the milliseconds of each layer of a graph to `times`. Slows the engine down."""
        self._sessions[part].watch(make_profiler(times))

    def streamed(self) -> dict[str, tuple[int, int]]:
        """For each graph, bytes: the budget of streamed weights on the device, and all weights that can be streamed."""
        return {part: session.streamed() for part, session in self._sessions.items()}

    def _decoder_of(self, bundle: Bundle, buffers: Buffers, options: TensorRtOptions) -> Decoder:
        kv, session = self.sidecar["kv_cache"], self._sessions["decode"]
        if kv["form"] == "plain":
            return PlainDecoder(session, bundle, buffers)
        return InPlaceDecoder(
            session, bundle, buffers, form=kv["form"], capacities=kv["capacities"], use_graph=options.cuda_graph
        )
