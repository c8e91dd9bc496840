"""One run of the vision graph, and the settings that came with it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from vitcop_vision.host.plugins.spec import Fraction, keep_count

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What settings.json says.

    Args:
        family: name of the model's family; the module of that name in vitcop_vision.host.calibrate.models.families.
        family_class: the class in it.
        keep: of the visual tokens of an image the vision stage keeps (num, den).
        merge: of these remain (num, den) after merging, or None where nothing is merged.
        one_image: how an image is processed depends on how many its prompt has, so that a prompt may have one alone.
        planes: names of the graph's feature outputs.
    """

    family: str
    family_class: str
    keep: Fraction
    merge: Fraction | None
    one_image: bool
    planes: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path) -> "Settings":
        """From the package's own folder."""
        data = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        return cls(
            family=data["family"],
            family_class=data["family_class"],
            keep=tuple(data["keep"]),
            merge=None if data["merge"] is None else tuple(data["merge"]),
            one_image=data["one_image"],
            planes=tuple(data["planes"]),
        )

    def count(self, num_visual: int) -> int:
        """Embeddings of an image of V visual tokens.

        Raises ValueError for an image so small that V·num // den is 0, which the graph cannot take.
        """
        kept = num_visual
        for num, den in (self.keep, self.merge or (1, 1)):
            if not kept * num // den:
                raise ValueError(
                    f"an image of {num_visual} visual tokens is too small to keep {num}/{den} of; enlarge it"
                )
            kept = keep_count(kept, (num, den))
        return kept


class VisionStage:
    """The vision graph on ONNX Runtime.

    Args:
        folder: holds vision.onnx and vision.safetensors.
        device: "cpu" or "cuda".
        threads: inside one operation on the CPU, or None for ONNX Runtime's own choice.

    Raises RuntimeError for another device, and where the provider cannot be started.
    """

    def __init__(self, folder: Path, settings: Settings, *, device: str = "cpu", threads: int | None = None) -> None:
        import onnxruntime

        if device not in PROVIDERS:
            known = ", ".join(PROVIDERS)
            raise RuntimeError(f"device {device!r} is not known: {known} (argument device, or VITCOP_VISION_DEVICE)")
        provider = PROVIDERS[device]
        if provider not in onnxruntime.get_available_providers():
            raise RuntimeError(f"this onnxruntime has no {provider}; pip install onnxruntime-gpu, or use device cpu")
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self.settings = settings
        # Full fp32 products on the GPU too: which tokens are kept depends on the last bits of their scores.
        own = {"use_tf32": "0"} if device == "cuda" else {}
        self.session = onnxruntime.InferenceSession(str(folder / "vision.onnx"), options, providers=[(provider, own)])
        if self.session.get_providers()[0] != provider:
            raise RuntimeError(f"onnxruntime could not start {provider}; use device cpu")
        self.inputs = {item.name: _TYPES[item.type] for item in self.session.get_inputs()}

    def run(self, vision_inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Run one image.

        Args:
            vision_inputs: what the family makes of it, for a batch of one.

        Returns the embeddings [K,H·planes], feature planes side by side, and int64 [K], the visual token at whose place
        each stands, ascending.
        """
        feeds = {name: np.ascontiguousarray(vision_inputs[name], dtype=kind) for name, kind in self.inputs.items()}
        *planes, kept = self.session.run([*self.settings.planes, "kept_patches"], feeds)
        return np.concatenate([plane[0] for plane in planes], axis=1), kept[0]
