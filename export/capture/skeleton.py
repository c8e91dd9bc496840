"""A checkpoint's model without its weights: enough to trace every graph, in a few megabytes."""

from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights

from vitcop.calibrate.models.checkpoint import Checkpoint, TensorLocation
from vitcop.calibrate.models.families import Family, family_of
from vitcop.calibrate.models.loading import load_config, quiet_transformers
from vitcop.plugins.errors import InputError

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A model of fake tensors.

    Args:
        model: the transformers model in eval mode; every parameter and buffer is a fake tensor of `mode`.
        buffers: real values of the buffers that no checkpoint holds (rotary frequencies, position ids), by name.
        weights: where each parameter and persistent buffer lies in the checkpoint, by its name in the model.
    """

    model: PreTrainedModel
    family: Family
    mode: FakeTensorMode
    buffers: dict[str, Tensor]
    weights: dict[str, TensorLocation]


def load_skeleton(checkpoint: Checkpoint, *, dtype: torch.dtype | None = None) -> Skeleton:
    """The model of a checkpoint on fake tensors. Raises InputError where config and weights do not fit each other.

    Args:
        dtype: what the model computes in; by default that of the weights.
    """
    with quiet_transformers():
        config = load_config(checkpoint.path)
        family = family_of(config)
        kind = getattr(transformers, next(name for name in config.architectures if name in family.architectures))
        if dtype is None:
            dtype = weights_dtype(checkpoint)
        else:
            # transformers makes the parts of a model in the type that their own configs name.
            for part in (config, *(getattr(config, name) for name in config.sub_configs)):
                part.dtype = dtype
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(dtype)
            # Initial values would be lost anyway, and some (SigLIP's) cannot be drawn on fake tensors.
            with mode, no_init_weights():
                model = kind(config).eval()
        finally:
            torch.set_default_dtype(before)
        model.tie_weights()
        buffers = {name: _rebuild(model, name) for name in _unsaved_buffers(model)}
        weights = _locate(model, checkpoint)
    return Skeleton(model=model, family=family, mode=mode, buffers=buffers, weights=weights)


def weights_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The one float type of a checkpoint's tensors. Raises InputError where there is none."""
    found = sorted({location.dtype for location in checkpoint.tensors().values()})
    if len(found) != 1 or found[0] not in _DTYPES:
        raise InputError(
            f"{checkpoint.path}: weights of dtype {', '.join(found)}; expected one of {', '.join(_DTYPES)} throughout"
        )
    return _DTYPES[found[0]]


def _unsaved_buffers(model: nn.Module) -> list[str]:
    saved = model.state_dict().keys()
    return [name for name, _ in model.named_buffers() if name not in saved]


def _rebuild(model: nn.Module, name: str) -> Tensor:
    """A buffer computed on construction has no value on fake tensors: construct its module once more, for real."""
    owner_path, _, buffer = name.rpartition(".")
    owner = model.get_submodule(owner_path)
    # Vision rotary embeddings of older transformers releases are made of two numbers in the place of a config.
    made_of = next((names for names in (("config",), ("dim", "theta")) if all(hasattr(owner, n) for n in names)), None)
    if made_of is None:
        raise InputError(
            f"buffer {name} is in no checkpoint and {type(owner).__name__} cannot be rebuilt from a config"
        )
    return getattr(type(owner)(*(getattr(owner, each) for each in made_of)), buffer).detach().clone()


def _locate(model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, TensorLocation]:
    """Match the checkpoint's names to the model's by the renaming that transformers itself applies on loading."""
    state = model.state_dict()
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    found: dict[str, TensorLocation] = {}
    for key, location in checkpoint.tensors().items():
        name, converted = rename_source_key(key, renamings, converters, model.base_model_prefix, state)
        if converted is not None and name in state:
            raise InputError(
                f"{checkpoint.path}: tensor {key} is rearranged on loading; convert the checkpoint with save_pretrained"
            )
        found[name] = location
    for group in _tied(model):
        located = next((found[name] for name in group if name in found), None)
        if located is not None:
            found |= dict.fromkeys(group, located)
    for name, tensor in state.items():
        if name not in found:
            raise InputError(f"{checkpoint.path}: tensor {name} of the model is not in the checkpoint")
        if tuple(tensor.shape) != found[name].shape:
            raise InputError(
                f"{checkpoint.path}: {name} has shape {list(found[name].shape)} in the checkpoint, "
                f"config.json asks for {list(tensor.shape)}"
            )
    return {name: found[name] for name in state}


def _tied(model: nn.Module) -> list[list[str]]:
    """Names that share one parameter."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]
