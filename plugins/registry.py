"""All operations by name, without torch: what the exporter, the runtimes and the tests iterate over."""

from vitcop.plugins.clusters.definition import SPECS as CLUSTERS
from vitcop.plugins.knorm.definition import SPECS as KNORM
from vitcop.plugins.merge.definition import SPECS as MERGE
from vitcop.plugins.saliency.definition import SPECS as SALIENCY
from vitcop.plugins.scores.definition import SPECS as SCORES
from vitcop.plugins.spec import OpSpec

ALL_OPS: dict[str, OpSpec] = {spec.torch_name: spec for spec in (*SALIENCY, *CLUSTERS, *KNORM, *SCORES, *MERGE)}
"""The operations by their torch.library name (without the namespace)."""

ONNX_OPS: dict[str, OpSpec] = {spec.onnx_name: spec for spec in ALL_OPS.values()}
"""The operations by their ONNX op type."""

REVISIONS: dict[str, int] = {spec.onnx_name: spec.revision for spec in ALL_OPS.values()}
"""The revision of each operation by its ONNX op type: what keys of kept results hold."""
