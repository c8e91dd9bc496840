"""One op in the evaluator that comes with onnx, which runs a function body node by node in NumPy.

As installed it cannot run GatherElements over an axis of more than 64 entries (32 before NumPy 2): it goes by way of
`np.choose`, which takes no more arrays than that. The sizes of a model need `MendedEvaluator`.
"""

import functools

import numpy as np
import op_cases
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from vitcop.plugins.registry import ALL_OPS

MOST_GATHERED = 32
"""Entries of an axis that the evaluator gathers from, whatever the version of NumPy."""


class GatherElements(OpRun):
    def _run(self, data, indices, axis=None):
        return (np.take_along_axis(data, indices, axis),)


class MendedEvaluator(ReferenceEvaluator):
    """Has a GatherElements of its own. Functions and branches become evaluators of the same class, but of functions
    onnx forgets `new_ops`: hence not an argument.
    """

    def __init__(self, proto, **arguments):
        super().__init__(proto, **{**arguments, "new_ops": [GatherElements]})


@functools.cache
def evaluator(name, attributes, opset_version, dtype, evaluator_class):
    model = op_cases.make_model(name, op_cases.inputs(name, 2, 20, dtype=dtype), attributes, opset_version)
    return evaluator_class(model)


def run_reference(name, tensors, attributes, opset_version=23, evaluator_class=MendedEvaluator):
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), None)
    running = evaluator(name, attributes, opset_version, dtype, evaluator_class)
    inputs = ALL_OPS[name].inputs
    return running.run(None, {key: t.numpy() for key, t in zip(inputs, tensors, strict=True)})
