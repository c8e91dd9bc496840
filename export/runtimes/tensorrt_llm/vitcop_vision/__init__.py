"""Pruned visual embeddings for TensorRT-LLM: vision tower, vision stage and merge of one model, on ONNX Runtime.

Emitted by `vitcop build --target tensorrt-llm`. Needs numpy, pillow, transformers and onnxruntime (or onnxruntime-gpu);
neither vitcop nor torch (the stock model below takes torch tensors).

    import torch
    from vitcop_vision import VisionSide

    side = VisionSide(device="cuda")
    prompt = side.prompt(text, images)
    embeddings = [torch.from_numpy(each) for each in prompt.embeddings]
    llm.generate({"prompt": text, "multi_modal_embeddings": {"image": embeddings}})
"""

from vitcop_vision.pictures import picture_of
from vitcop_vision.side import PrunedImage, PrunedPrompt, VisionSide
from vitcop_vision.stage import Settings, VisionStage

__all__ = ["PrunedImage", "PrunedPrompt", "Settings", "VisionSide", "VisionStage", "picture_of"]
