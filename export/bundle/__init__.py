"""The bundle: one folder that holds a model's graphs, its weights (or where they lie), its processor and a manifest.

Reading a bundle loads neither torch nor transformers.
"""

from vitcop.export.bundle.architecture import Architecture, architecture_of
from vitcop.export.bundle.contract import GRAPHS, GraphSpec, TensorSpec, graph_contract
from vitcop.export.bundle.manifest import FileRecord, Manifest, Weights, schedule_hash
from vitcop.export.bundle.processor_files import copy_processor_files
from vitcop.export.bundle.reader import Bundle
from vitcop.export.bundle.writer import check_destination, write_bundle, writing_bundle

__all__ = [
    "GRAPHS",
    "Architecture",
    "Bundle",
    "FileRecord",
    "GraphSpec",
    "Manifest",
    "TensorSpec",
    "Weights",
    "architecture_of",
    "check_destination",
    "copy_processor_files",
    "graph_contract",
    "schedule_hash",
    "write_bundle",
    "writing_bundle",
]
