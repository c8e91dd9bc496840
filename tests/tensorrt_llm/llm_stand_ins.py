"""TensorRT-LLM as far as the packages use it: modules made of api.json, so that what is not in the table is not there.

Classes have the members of the table and nothing else; the stock input processor counts the tokens of an image as
Qwen's does.
"""

import inspect
from types import ModuleType
from typing import Any

from vitcop.export.runtimes.tensorrt_llm.manifest import api_table

REGISTERED: dict[str, Any] = {}
"""Filled by the decorators: architecture, or model type, to what was registered for it."""


def stand_in_modules() -> dict[str, ModuleType]:
    """By name; also every package above them."""
    REGISTERED.clear()
    modules: dict[str, ModuleType] = {}
    for name, entry in api_table()["modules"].items():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            modules.setdefault(".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
        for member, about in entry["names"].items():
            setattr(modules[name], member, _made(member, about))
    return modules


def _made(name: str, about: dict[str, Any]) -> Any:
    if about["kind"] == "class":
        members = {
            member: property(lambda self, member=member: getattr(self, f"_{member}"))
            if entry["parameters"] is None
            else _BODIES.get(member, _unexpected(name, member))
            for member, entry in about["members"].items()
        }
        return type(name, (), members)
    if name == "register_auto_model":
        return lambda name: lambda cls: REGISTERED.setdefault(name, cls)
    if name == "register_input_processor":
        return _register_input_processor
    assert name == "MULTIMODAL_PLACEHOLDER_REGISTRY", f"no stand-in for {name}"
    return type(name, (), {"get_placeholder_metadata": lambda self, model_type: ("metadata of", model_type)})()


def _register_input_processor(processor_cls: type, model_type: str, placeholder_metadata: Any = None) -> Any:
    assert placeholder_metadata is not None
    REGISTERED[model_type] = (processor_cls, placeholder_metadata)
    return lambda cls: cls


def _init(self, model_path, config, tokenizer, trust_remote_code=True, **kwargs):
    import torch

    self._config, self._tokenizer, self._dtype = config, tokenizer, torch.float32


def _image_tokens(self, *, image, **kwargs):
    return image  # the tests give a number of tokens in place of an image


_BODIES = {"__init__": _init, "get_num_tokens_per_image": _image_tokens}


def _unexpected(owner: str, member: str) -> Any:
    def called(self, *args, **kwargs):
        raise AssertionError(f"the stock {owner}.{member} was called")

    return called


def parameters_of(function: Any) -> list[str]:
    """Names of a function's parameters without self, as api.json writes them."""
    found: list[str] = []
    star = False
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            found.append("*")
            star = True
        prefix = {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(parameter.kind, "")
        found.append(prefix + name)
    return found
