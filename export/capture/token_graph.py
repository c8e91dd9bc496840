"""The form in which graphs travel from capture to lowering: flat inputs and outputs, both with names."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram


@dataclass(frozen=True)
class GraphInput:
    """One input: an example (real or fake) and the name of each dynamic axis."""

    example: Tensor
    axes: dict[int, str]


@dataclass
class TokenGraph:
    """A captured graph that passes edit in place.

    Args:
        program: the last trace, of the module as it was then.
        module: a GraphModule whose placeholders are `inputs` in order and which returns the tuple `outputs`.
        inputs: by name, in the order of the placeholders.
        outputs: names, in the order of the results.
        minimum: least size of each dynamic axis; a size of 0 or 1 would be specialised by torch.export.
    """

    program: ExportedProgram
    module: fx.GraphModule
    inputs: dict[str, GraphInput]
    outputs: list[str]
    minimum: dict[str, int] = field(default_factory=dict)

    def placeholder(self, name: str) -> fx.Node:
        """The node of input `name`."""
        return next(node for node in self.module.graph.nodes if node.op == "placeholder" and node.name == name)

    def refresh(self) -> None:
        """Trace the edited module: every shape is checked anew, so a pass that broke one is found here."""
        self.program = trace(self.module, self.inputs, self.minimum)
        self.module = flat_module(self.program)

    def copied(self) -> "TokenGraph":
        """The graph of the last trace anew, for other passes to edit."""
        fresh = TokenGraph(
            program=self.program,
            module=flat_module(self.program),
            inputs=dict(self.inputs),
            outputs=list(self.outputs),
            minimum=dict(self.minimum),
        )
        fresh.name_placeholders()
        return fresh

    def name_placeholders(self) -> None:
        """Give the module's placeholders the names of the inputs."""
        for node, name in zip((n for n in self.module.graph.nodes if n.op == "placeholder"), self.inputs, strict=True):
            node.name = node.target = name
        self.module.recompile()


def trace(module: nn.Module, inputs: dict[str, GraphInput], minimum: dict[str, int]) -> ExportedProgram:
    """torch.export of `module`, called with the examples of `inputs` one by one."""
    dims = {axis: Dim(axis, min=minimum.get(axis, 1)) for spec in inputs.values() for axis in spec.axes.values()}
    shapes = tuple({axis: dims[name] for axis, name in spec.axes.items()} for spec in inputs.values())
    examples = tuple(spec.example for spec in inputs.values())
    assert len({id(example) for example in examples}) == len(examples), (
        "torch.export takes one example tensor for one input"
    )
    # The capture wrappers take *inputs, which torch.export sees as one tuple.
    variadic = not isinstance(module, fx.GraphModule)
    with torch.no_grad():
        return torch.export.export(module, examples, dynamic_shapes=(shapes,) if variadic else shapes, strict=False)


def flat_module(program: ExportedProgram) -> fx.GraphModule:
    """The program as a GraphModule with one flat placeholder an input and a flat tuple as its result."""
    unlifted = program.module(check_guards=False)
    # A module of our own: the unlifted one checks its inputs against the traced signature, which passes are about to
    # change.
    module = fx.GraphModule(unlifted, unlifted.graph)
    module.graph.set_codegen(fx.graph.CodeGen())
    for node in list(module.graph.nodes):
        # Dtype assertions of the trace hold by construction and would only stand in the way of the rewrite.
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    output = next(node for node in module.graph.nodes if node.op == "output")
    output.args = (tuple(output.args[0]),)
    module.recompile()
    return module
