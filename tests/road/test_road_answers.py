"""The engine of the unpruned model answers like Hugging Face itself, and the command line prints that answer."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from road_project import QUESTIONS, vitcop
from transformers import AutoProcessor, LlavaForConditionalGeneration

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.export.bundle import Bundle
from vitcop.export.runtimes import open_target

MOST = 8
"""Longest answer, in tokens."""


@pytest.fixture(scope="module")
def reference(project):
    """Model and processor, read by transformers alone."""
    model = LlavaForConditionalGeneration.from_pretrained(project.model).eval()
    processor = AutoProcessor.from_pretrained(project.model)
    processor.tokenizer.padding_side = "left"
    return model, processor


def inputs_of(processor, project, numbers: list[int], *, padding: bool = False):
    """What transformers feeds the model for some questions, each about its own image."""
    contents = [[{"type": "image"}, {"type": "text", "text": QUESTIONS[number]}] for number in numbers]
    texts = [
        processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        for content in contents
    ]
    images = [Image.open(project.image(number)) for number in numbers]
    return processor(text=texts, images=images, padding=padding, return_tensors="pt")


def as_batch(inputs, image_token: int) -> PromptBatch:
    """The same tensors as the engine takes them."""
    mask = inputs["attention_mask"].numpy()
    input_ids = inputs["input_ids"].numpy()
    visual_index = np.nonzero(input_ids == image_token)[1].reshape(len(input_ids), -1)
    return PromptBatch(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=np.maximum(mask.cumsum(axis=1) - 1, 0),
        visual_index=visual_index,
        vision_inputs={
            "pixel_values": inputs["pixel_values"].numpy(),
            "visual_rows": np.arange(visual_index.size).reshape(visual_index.shape),
        },
    )


def test_engine_logits_equal_those_of_the_model(project, plain, reference):
    """One padded batch of unequal prompts, prefill and decode, against each prompt alone and without any cache."""
    model, processor = reference
    numbers = list(range(len(QUESTIONS)))
    inputs = inputs_of(processor, project, numbers, padding=True)
    assert len(set(inputs["attention_mask"].sum(dim=1).tolist())) > 1

    runner = open_target("onnxruntime").runner(Bundle.open(plain, check_weights="sha256"))
    done = runner.prefill(as_batch(inputs, model.config.image_token_id))
    found = [done.logits]
    tokens = np.random.default_rng(3).integers(5, model.config.text_config.vocab_size, (len(numbers), 3))
    found += [runner.decode(column, done.state) for column in tokens.T]

    for number in numbers:
        alone = inputs_of(processor, project, [number])
        ids = torch.cat([alone["input_ids"], torch.from_numpy(tokens[number : number + 1])], dim=1)
        with torch.inference_mode():
            logits = model(input_ids=ids, pixel_values=alone["pixel_values"]).logits[0, -len(found) :].numpy()
        for step, expected in enumerate(logits):
            assert np.ptp(expected) > 0.1
            np.testing.assert_allclose(found[step][number], expected, rtol=0, atol=1e-4)


def test_generate_prints_the_answer_of_the_model(project, plain, reference):
    model, processor = reference
    inputs = inputs_of(processor, project, [1])
    with torch.inference_mode():
        made = model.generate(**inputs, max_new_tokens=MOST, do_sample=False)
    answer = processor.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert answer

    asked = ("generate", plain, "--image", project.image(1), "--prompt", QUESTIONS[1], "--max-new-tokens", MOST)
    done = vitcop(*asked)
    assert (done.returncode, done.stdout, done.stderr) == (0, answer + "\n", "")


def test_drawing_depends_on_the_seed_alone(project, plain):
    asked = ("generate", plain, "--image", project.image(0), "--prompt", "what is this? <image>")
    drawn = (*asked, "--max-new-tokens", MOST, "--temperature", "2", "--seed", "11")
    first, second = vitcop(*drawn, "--json"), vitcop(*drawn)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    told = json.loads(first.stdout)
    assert second.stdout == told["text"] + "\n"
    assert first.stderr == second.stderr == ""
    assert 1 <= len(told["tokens"]) <= MOST and told["finished"] == (told["tokens"][-1] == 2)
    assert told["visual_tokens"] == [16, 16]
    assert {"vision", "prefill", "decode"} <= set(told["seconds"])
