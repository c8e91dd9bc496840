"""Pruned visual embeddings for TensorRT-LLM: vision tower, vision stage and merge of one model, on ONNX Runtime.

Emitted by `vitcop build --target tensorrt-llm`. Needs numpy, pillow, transformers and onnxruntime (or onnxruntime-gpu);
neither vitcop nor torch.

    from vitcop_vision import VisionSide

    side = VisionSide(device="cuda")
    prompt = side.prompt(text, images)
    llm.generate({"prompt": text, "multi_modal_embeddings": {"image": prompt.embeddings}})
"""

from vitcop_vision.pictures import picture_of
from vitcop_vision.side import PrunedImage, PrunedPrompt, VisionSide
from vitcop_vision.stage import Settings, VisionStage

__all__ = ["PrunedImage", "PrunedPrompt", "Settings", "VisionSide", "VisionStage", "picture_of"]
