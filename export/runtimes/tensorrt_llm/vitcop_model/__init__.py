"""An out-of-tree model for TensorRT-LLM's PyTorch backend whose images are pruned before the language model.

Emitted by `vitcop build --target tensorrt-llm`; the folder is given to `trtllm-serve --custom_module_dirs`. Importing
it registers model and input processor in the place of the stock ones; the checkpoint stays as it is.
"""

import sys
from importlib import import_module
from pathlib import Path

_HOME = str(Path(__file__).parent.parent)
if _HOME not in sys.path:  # vitcop_vision lies beside this folder
    sys.path.insert(0, _HOME)

from vitcop_vision.side import FOLDER  # noqa: E402
from vitcop_vision.stage import Settings  # noqa: E402

import_module(f"vitcop_model.{Settings.load(FOLDER).family}")
