"""Loading into transformers: quiet, offline, and with errors that name the reason."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers.utils import logging

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_config, load_model, load_processor
from vitcop.plugins.errors import InputError, MissingError


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny.folder, tmp_path / "copy")


def test_loads_without_a_word(tiny, capfd):
    logging.set_verbosity_warning()
    model, processor, family = load_model(tiny.checkpoint)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not model.training and model.dtype == torch.float32 and family.name == "llava"
    assert logging.get_verbosity() == logging.WARNING
    assert type(processor.image_processor).__name__.endswith("Pil")


def test_dtype_by_name(tiny):
    assert load_model(tiny.checkpoint, dtype="bfloat16")[0].dtype == torch.bfloat16
    with pytest.raises(InputError, match="float7"):
        load_model(tiny.checkpoint, dtype="float7")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_missing_device(tiny):
    with pytest.raises(MissingError, match="cuda:0"):
        load_model(tiny.checkpoint, device="cuda:0")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x"])
def test_unknown_device(tiny, device):
    with pytest.raises(InputError, match="^device .* is not known; use cpu, cuda or cuda:0$"):
        load_model(tiny.checkpoint, device=device)


@pytest.mark.parametrize(
    "change",
    [
        {"text_config": 3},
        {"model_type": "unheard_of"},
        {"text_config": {"model_type": "llama", "num_hidden_layers": "four"}},
        {"text_config": {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 0}},
    ],
)
def test_broken_config(copy, change):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError) as caught:
        load_model(Checkpoint.open(copy))
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_config_alone(tiny, tmp_path):
    assert load_config(tiny.folder).architectures == ["LlavaForConditionalGeneration"]
    with pytest.raises(InputError, match="does not make a config"):
        load_config(tmp_path / "nowhere")


def test_missing_tensor_is_not_made_up(copy):
    tensors = load_file(copy / "model.safetensors")
    gone = next(name for name in tensors if "q_proj" in name)
    del tensors[gone]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="1 tensors are missing"):
        load_model(Checkpoint.open(copy))


def test_processor_without_weights(copy):
    (copy / "model.safetensors").unlink()
    assert load_processor(copy).chat_template


def test_processor_errors(copy, tmp_path):
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        load_processor(copy)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_processor(tmp_path / "nowhere")
    (copy / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor"}))
    (copy / "tokenizer.json").unlink()
    with pytest.raises(InputError) as caught:
        load_processor(copy)
    assert "\n" not in str(caught.value)


def test_start_token_is_added_once(tiny):
    """As transformers' apply_chat_template(tokenize=True): by the tokenizer, unless the template has written it."""
    processor = load_processor(tiny.folder)
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what ?"}]}]
    text = tiny.family.prompt_text(processor, conversation)
    for prompt in (text, "<s>" + text):
        ids = tiny.family.prepare(processor, [prompt], [[Image.new("RGB", (32, 32))]]).input_ids
        assert ids[0, 0] == 1 and (ids == 1).sum() == 1
