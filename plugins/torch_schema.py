"""From an op's definition to its torch.library schema."""

from vitcop.plugins.spec import OpSpec


def torch_schema(spec: OpSpec) -> str:
    """e.g. "(Tensor keys, Tensor visual_index, int mean_norm) -> Tensor".

    Written out, since a schema that torch derives from type hints has SymInt for int: attributes are constants.
    """
    tensors = [f"Tensor{'?' if name in spec.optional_inputs else ''} {name}" for name in spec.inputs]
    attributes = [f"{kind.__name__} {name}" for name, kind in spec.attributes]
    outputs = ", ".join(["Tensor"] * len(spec.outputs))
    return f"({', '.join(tensors + attributes)}) -> {outputs if len(spec.outputs) == 1 else f'({outputs})'}"
