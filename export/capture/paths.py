"""Where the family's modules stand in the captured graphs: the paths that `nn_module_stack` of each node speaks in."""

from dataclasses import dataclass

from torch import nn

from vitcop.calibrate.models.families import Family


@dataclass(frozen=True, kw_only=True)
class ModulePaths:
    """Paths as seen from the capture wrappers, which hold the model as `model`."""

    layers: tuple[str, ...]


def module_paths(model: nn.Module, family: Family) -> ModulePaths:
    """Look the family's modules up by identity, so no path is written down twice."""
    names = {id(module): f"model.{name}" for name, module in model.named_modules()}
    return ModulePaths(layers=tuple(names[id(layer)] for layer in family.language_model(model).layers))
