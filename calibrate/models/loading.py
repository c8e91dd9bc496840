"""Loading a checkpoint into transformers: offline, from safetensors alone, without its warnings and progress bars."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.dtypes import Attention, dtype_name
from vitcop.calibrate.models.families import Family, family_of
from vitcop.calibrate.models.processor import Processor, read_processor
from vitcop.plugins.errors import InputError, MissingError

if TYPE_CHECKING:
    import torch


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers says nothing below an error and draws no progress bar inside; its settings come back after."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_config(path: str | Path) -> Any:
    """The transformers config of a model folder. Raises InputError where config.json does not make one."""
    with quiet_transformers():
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # each config checks its values in its own way, with exceptions of many types
            raise InputError(f"{path}: config.json does not make a config ({_first_line(error)})") from None


def load_processor(path: str | Path) -> Processor:
    """The processor (tokenizer, image processor, chat template) of a model folder or bundle; no weights are touched.

    Raises InputError where the folder holds none.
    """
    with quiet_transformers():
        from transformers import AutoTokenizer

        # Not from the top: without torchvision older releases put something there that only says so.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            images = AutoImageProcessor.from_pretrained(
                path, local_files_only=True, trust_remote_code=False, backend="pil"
            )
        except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
            raise InputError(f"{path}: its processor cannot be loaded ({_first_line(error)})") from None
    return read_processor(Path(path), tokenizer, images)


def load_model(
    checkpoint: Checkpoint, *, device: str = "cpu", dtype: "torch.dtype | str" = "float32", attn: str = "sdpa"
) -> tuple[Any, Any, Family]:
    """(model in eval mode, processor, family) of a checkpoint.

    Args:
        device: where the weights go, such as "cpu" or "cuda:0".
        dtype: of the weights, a torch dtype or its name (`dtypes.dtype_name`).
        attn: "sdpa", "eager" or "flash_attention_2" (needs the package flash-attn, a GPU and a half-precision dtype).

    Raises InputError where config or weights are broken or do not fit, MissingError where device or package is not
    there.
    """
    with quiet_transformers():
        from transformers import AutoModelForImageTextToText

        place, kind = check_placement(device, dtype, attn)
        config = load_config(checkpoint.path)
        family = family_of(config)
        try:
            model, info = AutoModelForImageTextToText.from_pretrained(
                checkpoint.path,
                config=config,
                dtype=kind,
                attn_implementation=attn,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ArithmeticError) as error:
            raise InputError(f"{checkpoint.path}: transformers cannot load this model ({_first_line(error)})") from None
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise InputError(
                f"{checkpoint.path}: {len(missing)} tensors are missing from the checkpoint, first {missing[0]}"
            )
    processor = load_processor(checkpoint.path)
    return model.to(place).eval(), processor, family


def check_placement(device: str, dtype: "torch.dtype | str", attn: str) -> "tuple[torch.device, torch.dtype]":
    """(device, dtype) where a model can be loaded so here: what `load_model` checks before it reads anything. Raises as
    it does."""
    import torch

    try:
        place = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is not known; use cpu, cuda or cuda:0") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise MissingError(f"device {device}: no CUDA device on this machine; use device cpu")
    kind = getattr(torch, dtype_name(dtype)) if isinstance(dtype, str) else dtype
    check_attention(attn, place, kind)
    return place, kind


def check_attention(attn: str, device: "torch.device", dtype: "torch.dtype") -> None:
    """Raises InputError for an attention that is not known or cannot compute in this dtype, MissingError where its
    package or device is not there."""
    if attn not in get_args(Attention):
        raise InputError(f"attention {attn!r} is not known; use {', '.join(get_args(Attention))}")
    if attn != "flash_attention_2":
        return
    if device.type != "cuda":
        raise MissingError(
            f"attention flash_attention_2 runs on CUDA devices alone, not on {device}; use device cuda, or sdpa"
        )
    if dtype.itemsize != 2:
        raise InputError(
            f"attention flash_attention_2 computes in float16 or bfloat16, not in {dtype}; use one of them, or sdpa"
        )
    if find_spec("flash_attn") is None:
        raise MissingError(
            "attention flash_attention_2 needs flash-attn: pip install 'vitcop[flash-attn]', or use sdpa"
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
