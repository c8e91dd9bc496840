"""The emitted packages, imported and run as they are: embeddings, kept tokens and positions against PyTorch."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from family_case import picture
from llm_stand_ins import REGISTERED

from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.run.vision_stage import keep_patches, run_vision
from vitcop.export.runtimes.tensorrt_llm.families import stock_of
from vitcop.plugins import ops

SIZES = ((56, 32), (40, 48), (64, 24))
QUESTION = " what color is this ? ASSISTANT:"


def pictures(count):
    return [picture(*size, seed) for seed, size in enumerate(SIZES[:count])]


def text_of(packaged, count):
    word, _ = packaged.family.placeholders(packaged.processor)
    framed = f"<|vision_start|>{word}<|vision_end|>" if packaged.family.num_axes == 3 else word
    return "USER: " + " is ".join([framed] * count) + QUESTION


def expected_of(packaged, images):
    """Embeddings and kept tokens of each image by PyTorch: stage I, then the merge of its tokens."""
    word, _ = packaged.family.placeholders(packaged.processor)
    found = []
    for image in images:
        batch = packaged.family.prepare(packaged.processor, [word], [[image]])
        kept = keep_patches(run_vision(packaged.model, packaged.family, batch), packaged.side.vision)
        planes, places = kept.planes, kept.kept_patches
        if packaged.side.merge is not None:
            count = places.shape[1]
            tokens = torch.arange(count)[None]
            sign = -1 if packaged.side.vision.order == "largest" else 1
            _, _, stays, assignment = ops.cluster_merge_plan(
                sign * kept.saliency,
                kept.labels,
                tokens,
                count,
                num_clusters=packaged.side.vision.clusters.centers,
                keep=packaged.side.merge,
                merge="mean",
            )
            planes, places = [assignment @ plane for plane in planes], places.gather(1, stays)
        found.append((torch.cat(list(planes), dim=2)[0].numpy(), places[0].numpy()))
    return found


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("qwen2_5_vl", "selecting"),
        ("qwen2_5_vl", "merging"),
        ("qwen3_vl", "selecting"),
        pytest.param("qwen3_vl", "merging", marks=pytest.mark.slow),
        ("llava_next", "selecting"),
        pytest.param("llava_next", "merging", marks=pytest.mark.slow),
    ],
)
def test_embeddings_are_those_of_pytorch(packaged, imported, family, kind):
    subject = packaged(family, kind)
    imported(subject.folder)
    from vitcop_vision import VisionSide

    images = pictures(3)
    side = VisionSide()
    pruned = side.prompt(text_of(subject, 3), images)
    for image, found, (embeddings, kept) in zip(images, pruned.images, expected_of(subject, images), strict=True):
        np.testing.assert_array_equal(found.kept, kept)
        np.testing.assert_allclose(found.embeddings, embeddings, atol=5e-5, rtol=2e-5)
        assert len(kept) == subject.side.count(found.num_visual) < found.num_visual
        np.testing.assert_array_equal(side.image(image).embeddings, found.embeddings)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_next"])
def test_one_image_is_pruned_as_under_the_equivalent_schedule(packaged, imported, family):
    """Features and positions go into the transformers model from outside, as TensorRT-LLM's model takes them, and the
    logits are those of PyTorch under the equivalent schedule."""
    subject = packaged(family, "selecting")
    imported(subject.folder)
    from vitcop_vision import VisionSide

    text, images = text_of(subject, 1), pictures(1)
    pruned = VisionSide().prompt(text, images)
    batch = subject.family.prepare(subject.processor, [text], [images])
    runner = ScheduledRunner(subject.model, subject.family, subject.side.schedule)
    reference = runner.prefill(batch)
    np.testing.assert_array_equal(pruned.images[0].kept, reference.vision.kept_visual[0])
    short = batch.after_drop(reference.vision.kept_visual)
    assert pruned.token_ids == short.input_ids[0].tolist()

    decoder, ids = subject.family.language_model(subject.model), torch.tensor([pruned.token_ids])
    hidden = decoder.embed_tokens(ids)
    visual = ids[0] == subject.family.image_token
    first, *planes = torch.from_numpy(pruned.embeddings[0]).chunk(1 + subject.family.num_planes, dim=1)
    hidden[0, visual] = first
    extra = {"visual_pos_masks": visual[None], "deepstack_visual_embeds": planes} if planes else {}
    positions = torch.from_numpy(pruned.position_ids)
    with torch.inference_mode():
        output = decoder(
            inputs_embeds=hidden, position_ids=positions[:, None] if positions.ndim == 2 else positions[None], **extra
        )
        logits = subject.family.lm_head(subject.model)(output.last_hidden_state[:, -1])
    np.testing.assert_allclose(logits.numpy(), reference.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("family", "kind"), [("qwen2_5_vl", "merging"), ("qwen3_vl", "selecting")])
def test_positions_of_kept_tokens_are_those_of_the_full_prompt(packaged, imported, family, kind, count):
    """Against the model's own code, on all three axes, and for the first generated token."""
    subject = packaged(family, kind)
    imported(subject.folder)
    from vitcop_vision import VisionSide

    text, images = text_of(subject, count), pictures(count)
    pruned = VisionSide().prompt(text, images)
    full = subject.family.prepare(subject.processor, [text], [images])
    positions, delta = subject.model.model.get_rope_index(
        torch.as_tensor(full.input_ids),
        mm_token_type_ids=torch.as_tensor((full.input_ids == subject.family.image_token).astype(np.int64)),
        image_grid_thw=torch.as_tensor(full.model_inputs["image_grid_thw"]),
        attention_mask=torch.as_tensor(full.attention_mask),
    )
    starts = np.cumsum([0, *(image.num_visual for image in pruned.images)])
    kept = np.concatenate([start + image.kept for start, image in zip(starts[:-1], pruned.images, strict=True)])
    stays = full.input_ids[0] != subject.family.image_token
    stays[full.visual_index[0, kept]] = True
    np.testing.assert_array_equal(pruned.position_ids, positions[:, 0, stays].numpy())
    assert pruned.position_delta == int(delta) + full.input_ids.shape[1] - len(pruned.token_ids)


def test_without_gaps_in_one_axis_the_places_are_told_all_the_same(packaged, imported):
    subject = packaged("llava_next", "selecting")
    imported(subject.folder)
    from vitcop_vision import VisionSide

    pruned = VisionSide().prompt(text_of(subject, 1), pictures(1))
    dropped = pruned.images[0].num_visual - len(pruned.images[0].kept)
    assert pruned.position_ids.shape == (len(pruned.token_ids),) and (np.diff(pruned.position_ids) >= 1).all()
    assert pruned.position_ids[-1] + 1 == len(pruned.token_ids) + dropped
    assert pruned.position_delta == dropped


def test_several_images_are_refused_where_one_alone_is_processed_otherwise(packaged, imported):
    """LLaVA-OneVision tiles an image that is alone in its prompt."""
    subject = packaged("llava_onevision", "selecting")
    imported(subject.folder)
    from vitcop_vision import VisionSide

    side, images = VisionSide(), pictures(2)
    (found,) = side.prompt(text_of(subject, 1), images[:1]).images
    ((embeddings, kept),) = expected_of(subject, images[:1])
    np.testing.assert_array_equal(found.kept, kept)
    # The features of this tiny model are in the tens, and sums of four weighted rows.
    np.testing.assert_allclose(found.embeddings, embeddings, atol=1e-4 * np.abs(embeddings).max())
    with pytest.raises(ValueError, match="the prompt has 2 images.*send one image"):
        side.prompt(text_of(subject, 2), images)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_next", "llava_onevision"])
def test_which_families_process_an_image_by_its_company(packaged, family):
    """The table is right: visual tokens of an image alone, and of the same image beside another."""
    subject, (first, second) = packaged(family, "selecting"), pictures(2)
    tokens = [
        int(
            (
                subject.family.prepare(subject.processor, [text_of(subject, len(images))], [images]).visual_index >= 0
            ).sum()
        )
        for images in ([first], [second], [first, second])
    ]
    assert (tokens[2] != tokens[0] + tokens[1]) == stock_of(family).one_image


def test_a_device_that_is_not_known(packaged, imported):
    imported(packaged("qwen2_5_vl", "merging").folder)
    from vitcop_vision import VisionSide

    with pytest.raises(RuntimeError, match="device 'gpu' is not known: cpu, cuda .*VITCOP_VISION_DEVICE"):
        VisionSide(device="gpu")


def test_it_runs_without_vitcop_and_without_torch(packaged, tmp_path):
    subject = packaged("qwen2_5_vl", "merging")
    image = tmp_path / "image.png"
    pictures(1)[0].save(image)
    code = (
        "import sys\nsys.modules['torch'] = None\nsys.path.insert(0, sys.argv[1])\n"
        "from PIL import Image\nfrom vitcop_vision import VisionSide\n"
        "found = VisionSide().prompt(sys.argv[2], [Image.open(sys.argv[3])])\n"
        "print(len(found.token_ids), [n for n in sys.modules if n == 'vitcop' or n.startswith('vitcop.')])\n"
    )
    command = [sys.executable, "-c", code, str(subject.folder), text_of(subject, 1), str(image)]
    # transformers says on stderr that there is no PyTorch.
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stderr
    count, names = done.stdout.split(maxsplit=1)
    assert int(count) > 4 and names.strip() == "[]"


@pytest.mark.parametrize(("family", "kind"), [("qwen2_5_vl", "merging"), ("qwen3_vl", "selecting")])
def test_the_model_package_under_stand_ins(packaged, imported, family, kind):
    """Imported as `--custom_module_dirs` does; a request goes through the registered input processor."""
    subject = packaged(family, kind)
    stand_ins = imported(subject.folder)
    import vitcop_model  # noqa: F401

    architecture = subject.family.architectures[0]
    stock = stand_ins[f"tensorrt_llm._torch.models.modeling_{family.replace('2_5_', '2').replace('3_', '3')}"]
    processor_class, metadata = REGISTERED[family]
    assert metadata == ("metadata of", family)
    assert issubclass(REGISTERED[architecture], tuple(c for n, c in vars(stock).items() if n.endswith("Model")))
    processor = processor_class("unused", None, subject.processor.tokenizer, trust_remote_code=False)
    text, images = text_of(subject, 2), pictures(2)
    ids, extra = processor({"prompt": text, "multi_modal_data": {"image": images}}, None)
    data = extra["multimodal_data"]
    visual = sum(token == subject.family.image_token for token in ids)
    assert [len(each) for each in data["multimodal_embedding"]] == [
        len(kept) for _, kept in expected_of(subject, images)
    ]
    assert sum(map(len, data["multimodal_embedding"])) == visual
    for found, (embeddings, _) in zip(data["multimodal_embedding"], expected_of(subject, images), strict=True):
        np.testing.assert_allclose(found.numpy(), embeddings, atol=2e-5, rtol=2e-5)
    rope = data["mrope_config"]
    assert rope["mrope_position_ids"].shape == (3, 1, len(ids))
    assert rope["mrope_position_deltas"].shape == (1, 1) and rope["mrope_position_deltas"].dtype == torch.int32
    following = int(rope["mrope_position_ids"].max()) + 1
    assert len(ids) + int(rope["mrope_position_deltas"]) == following
    # The same prompt as ids, and images as tensors in 0..1, as servers send them.
    tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images]
    raw = subject.processor.token_ids(text)
    again, same = processor({"prompt_token_ids": raw, "multi_modal_data": {"image": tensors}}, None)
    assert again == ids
    for a, b in zip(data["multimodal_embedding"], same["multimodal_data"]["multimodal_embedding"], strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_what_the_model_package_refuses_and_counts(packaged, imported):
    subject = packaged("qwen2_5_vl", "merging")
    imported(subject.folder)
    import vitcop_model  # noqa: F401

    processor = REGISTERED["qwen2_5_vl"][0]("unused", None, subject.processor.tokenizer)
    assert processor({"prompt": "USER: red ASSISTANT:"}, None) == (
        subject.processor.token_ids("USER: red ASSISTANT:"),
        None,
    )
    # Ids of text alone stay as they are, also where encoding their text would give others.
    ids = [id for word in ("red", "what") for id in subject.processor.token_ids(word)] * 2
    for media in ({}, {"multi_modal_data": None}, {"multi_modal_data": {"image": [], "video": None}}):
        assert processor({"prompt_token_ids": ids, **media}, None) == (ids, None)
    (image,) = pictures(1)
    text = text_of(subject, 1)
    listed, data = processor({"prompt": text, "multi_modal_data": {"image": [image]}, "mm_processor_kwargs": {}}, None)
    bare, same = processor({"prompt": text, "multi_modal_data": {"image": image}}, None)
    assert bare == listed
    for a, b in zip(
        *(each["multimodal_data"]["multimodal_embedding"] for each in (data, same)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    settings = {"prompt": text, "multi_modal_data": {"image": image}, "mm_processor_kwargs": {"max_pixels": 784}}
    with pytest.raises(ValueError, match="mm_processor_kwargs .*max_pixels.*takes no other settings"):
        processor(settings, None)
    assert processor.get_num_tokens_per_image(image=100) == subject.side.count(100)
    for inputs in ({"video": [object()]}, {"video": object()}, {"image": [], "audio": [object()]}):
        with pytest.raises(ValueError, match="takes no video and no audio"):
            processor({"prompt": "x", "multi_modal_data": inputs}, None)
    with pytest.raises(ValueError, match="takes no video"):
        processor.get_num_tokens_per_video(video=[])
    with pytest.raises(NotImplementedError, match="prunes them itself"):
        processor.attach_multimodal_embeddings({}, {}, None)
    with pytest.raises(ValueError, match="for 0 images|for 1 images"):
        processor({"prompt": "no placeholder", "multi_modal_data": {"image": pictures(1)}}, None)


def test_pictures(packaged, imported):
    imported(packaged("qwen2_5_vl", "merging").folder)
    from vitcop_vision import picture_of

    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    array = np.stack([levels, levels[::-1], levels.T], axis=2)
    floats = (array.astype(np.float32) / 255).transpose(2, 0, 1)
    for given in (array, torch.from_numpy(array), floats, torch.from_numpy(floats), torch.from_numpy(floats).half()):
        np.testing.assert_array_equal(np.asarray(picture_of(given)), array)
    for wrong in (array.astype(np.int32), floats * 2, floats[0], array[..., :2]):
        with pytest.raises(ValueError, match="expected a Pillow image"):
            picture_of(wrong)


def test_an_image_that_is_too_small_is_refused_before_the_graph(packaged, imported):
    imported(packaged("qwen2_5_vl", "merging").folder)
    from vitcop_vision import Settings

    settings = Settings(family="f", family_class="F", keep=(1, 3), merge=(1, 4), one_image=False, planes=())
    assert [settings.count(num_visual) for num_visual in (12, 24, 100)] == [1, 2, 8]
    for small in (1, 2, 3, 11):
        with pytest.raises(ValueError, match=f"an image of {small} visual tokens is too small"):
            settings.count(small)
