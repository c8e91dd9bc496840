"""Definitions of the operations, without torch: what every form of an op (torch, ONNX, CUDA) reads.

An op is named once here; `plugins/<folder>/definition.py` holds one `OpSpec` for each op of that folder.
"""

from dataclasses import dataclass

DOMAIN = "vitcop"
"""ONNX domain, TensorRT plugin namespace and torch.library namespace of all ops."""

Fraction = tuple[int, int]
"""(num, den): an exact ratio. Keep counts follow from it and from a shape by integer arithmetic alone."""


def keep_count(num_visual: int, keep: Fraction) -> int:
    """K = V·num // den, at least 1 where there is a token at all (0 of 0 tokens are kept)."""
    num, den = keep
    return min(num_visual, max(1, num_visual * num // den))


@dataclass(frozen=True, kw_only=True)
class OpSpec:
    """One operation.

    The torch.library op is `vitcop::<torch_name>`; its arguments are the tensors of `inputs` in order (those in
    `optional_inputs` may be None), followed by the attributes of `attributes` in order. The ONNX node has op type
    `onnx_name`, domain `vitcop`, the same inputs and the same attribute names, plus `plugin_namespace` and
    `plugin_version`.

    `revision` is raised whenever the same inputs give another result. Everything that is kept of an op (stored
    measurements, bundles, engines) carries it, and is not used under another one.
    """

    torch_name: str
    onnx_name: str
    inputs: tuple[str, ...]
    attributes: tuple[tuple[str, type], ...]
    outputs: tuple[str, ...]
    optional_inputs: frozenset[str] = frozenset()
    revision: int = 1

    @property
    def plugin_version(self) -> str:
        """Of the TensorRT plugin: no engine and no graph finds the plugin of another revision."""
        return str(self.revision)

    def __post_init__(self) -> None:
        assert all(kind in (int, float) for _, kind in self.attributes), (
            "attributes are int or float: TensorRT and ONNX read both"
        )
