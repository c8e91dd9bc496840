"""What every bundle that the tests export is held against without TensorRT: the operators that its parser takes."""

import onnx

from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.runtimes.tensorrt.operator_check import examine_operators
from vitcop.export.runtimes.tensorrt.operator_table import RELEASES
from vitcop.plugins.registry import ALL_OPS

PLUGIN_TYPES = ("", "FP32", "FP16", "BF16", "INT32", "INT64")


def checked(bundle: Bundle) -> Bundle:
    """The bundle itself, after every node of its graphs was found in the tables of TensorRT."""
    for part in GRAPHS:
        model = onnx.load(bundle.graph(part), load_external_data=False)
        check_model(model, f"{bundle.path.name}/{part}")
    return bundle


def check_model(model: onnx.ModelProto, what: str) -> None:
    """Nothing outside of the tables, and every vitcop node is listed as a plugin's."""
    own = [node.name for node in model.graph.node if node.domain == "vitcop"]
    for release in RELEASES:
        report = examine_operators(model, release)
        assert not report.findings, f"{what}, TensorRT {release}: " + "; ".join(map(str, report.findings))
        assert [node.node for node in report.plugins] == own, what
        for node in report.plugins:
            assert node.op in {spec.onnx_name for spec in ALL_OPS.values()}, node
            assert set(node.inputs + node.outputs) <= set(PLUGIN_TYPES), node
