"""The target: what it writes, when it reuses it, and what it refuses."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from family_case import picture
from llm_cases import BUILDERS, bundle_without_graphs
from onnx import TensorProto

from vitcop.calibrate.core.digests import sha256_of_file
from vitcop.calibrate.models.checkpoint import Checkpoint, read_header
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.run.vision_stage import keep_patches, run_vision
from vitcop.calibrate.schedule.schedule import Drop, Schedule, VisionStage
from vitcop.export.bundle import Bundle
from vitcop.export.runtimes import open_target, target_names
from vitcop.export.runtimes.tensorrt_llm import vision_side
from vitcop.export.runtimes.tensorrt_llm.builder import damage_of
from vitcop.export.runtimes.tensorrt_llm.manifest import manifest_of
from vitcop.export.runtimes.tensorrt_llm.vision_graph import export_vision
from vitcop.export.runtimes.tensorrt_llm.weights import gather_weights
from vitcop.pipeline.cli import cli
from vitcop.plugins.errors import InputError


@pytest.fixture
def target():
    return open_target("tensorrt-llm")


def moved_bundle(packaged, folder):
    """A copy of a bundle without its engines, and the path of its manifest."""
    shutil.copytree(packaged.bundle.path, folder, ignore=shutil.ignore_patterns("engines"))
    return folder, folder / "manifest.json"


def test_it_is_a_target():
    assert "tensorrt-llm" in target_names()


def test_what_is_written(packaged):
    subject = packaged("qwen2_5_vl", "merging")
    assert subject.engine.path.parent == subject.bundle.path / "engines" / "tensorrt-llm"
    assert sorted(path.name for path in subject.engine.path.iterdir()) == ["engine.json", "trtllm"]
    assert sorted(path.name for path in subject.folder.iterdir()) == ["manifest.json", "vitcop_model", "vitcop_vision"]
    assert sorted(path.name for path in (subject.folder / "vitcop_model").iterdir()) == [
        "__init__.py",
        "pruning.py",
        "qwen2_5_vl.py",
    ]
    manifest = json.loads((subject.folder / "manifest.json").read_text())
    listed = {record["name"]: record["sha256"] for record in manifest["files"]}
    files = {
        path.relative_to(subject.folder).as_posix()
        for path in subject.folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == set(listed) | {"manifest.json"}
    assert all(sha256_of_file(subject.folder / name) == digest for name, digest in listed.items())
    # The bundle with its package is still a bundle.
    Bundle.open(subject.bundle.path)


def test_the_manifest_says_what_each_artefact_honours(packaged):
    subject = packaged("qwen2_5_vl", "merging")
    manifest = json.loads((subject.folder / "manifest.json").read_text())
    artefacts = manifest["artefacts"]
    for artefact in artefacts.values():
        stages = {stage["stage"]: stage["honoured"] for stage in artefact["stages"]}
        assert stages == {"vision stage": "exactly", "drop 0 (merge before layer 1)": "approximated"}
        assert artefact["stock_model"] == "Qwen2_5_VLModel"
    assert artefacts["vitcop_model"]["positions"]["honoured"] == "exactly"
    assert artefacts["vitcop_vision"]["positions"]["honoured"] == "approximated"
    assert any(line.startswith("positions: ") for line in artefacts["vitcop_vision"]["approximated"])
    assert any(line.startswith("drop 0") for line in artefacts["vitcop_model"]["approximated"])
    assert manifest["equivalent"]["budget"] == {"schedule": "4/9", "equivalent": "4/9"}
    assert manifest["equivalent"]["visual_tokens"]["schedule_by_layer"] == [384, 192, 192]
    assert manifest["equivalent"]["visual_tokens"]["equivalent_in_every_layer"] == 256
    assert "No release of TensorRT-LLM has run this package" in manifest["tensorrt_llm"]["checked"]
    assert manifest["tensorrt_llm"]["source"]["files"]


@pytest.mark.parametrize(
    ("language_model", "told"),
    [
        ("qwen2", "Qwen2 attention is given no window"),
        ("qwen2_5_vl_text", "Qwen2 attention is given no window"),
        ("mistral", "Mistral attention counts them in tokens that are there"),
        ("qwen3", "not read for this language model"),
    ],
)
def test_sliding_windows_are_told(packaged, language_model, told):
    """What the runtime makes of them depends on the language model."""
    subject = packaged("qwen2_5_vl", "merging")
    facts = subject.bundle.manifest.architecture
    for layers in ((), (0, 2)):
        sliding = replace(subject.bundle.manifest, architecture=replace(facts, sliding_layers=layers))
        manifest = manifest_of(
            subject.side, sliding, dtype="float32", language_model=language_model, folder=subject.folder
        )
        for artefact in manifest["artefacts"].values():
            lines = [line for line in artefact["approximated"] if line.startswith("sliding windows: ")]
            assert len(lines) == bool(layers) and all(told in line for line in lines)


def test_another_float_type_than_the_bundles_is_told(packaged):
    """A bfloat16 bundle is packaged in fp32."""
    subject = packaged("qwen2_5_vl", "merging")
    facts = subject.bundle.manifest.architecture
    for kind in ("float32", "bfloat16"):
        bundle = replace(subject.bundle.manifest, architecture=replace(facts, dtype=kind))
        manifest = manifest_of(
            subject.side, bundle, dtype="float32", language_model="qwen2_5_vl_text", folder=subject.folder
        )
        for artefact in manifest["artefacts"].values():
            lines = [line for line in artefact["approximated"] if line.startswith("types: ")]
            assert len(lines) == (kind == "bfloat16") and all("computes in float32" in line for line in lines)


def test_a_selecting_equivalent_can_be_exported_and_a_merging_one_cannot(packaged):
    selecting, merging = packaged("llava_next", "selecting"), packaged("qwen2_5_vl", "merging")
    told = [json.loads((each.folder / "manifest.json").read_text())["equivalent"] for each in (selecting, merging)]
    assert told[0]["schedule_file"] == "equivalent.schedule.json" and told[1]["schedule_file"] is None
    assert Schedule.load(selecting.folder / "equivalent.schedule.json") == selecting.side.schedule
    assert selecting.side.schedule.drops == () and not (merging.folder / "equivalent.schedule.json").exists()
    assert "cannot be exported and verified" in told[1]["why_no_schedule_file"]
    assert all("fixed rule" in each["chosen"] and "nothing was measured" in each["chosen"] for each in told)


def test_limits_are_told(packaged):
    manifests = [
        json.loads((packaged(family, "selecting").folder / "manifest.json").read_text())
        for family in ("llava_next", "llava_onevision")
    ]
    limits = [manifest["artefacts"]["vitcop_vision"]["limits"] for manifest in manifests]
    assert [any("several images" in line for line in lines) for lines in limits] == [False, True]
    assert all(any("transformers >=5.14" in line for line in lines) for lines in limits)
    model = json.loads((packaged("qwen2_5_vl", "merging").folder / "manifest.json").read_text())["artefacts"]
    assert any("mm_processor_kwargs" in line for line in model["vitcop_model"]["limits"])


def test_a_damaged_package_is_made_anew(packaged, target, tmp_path):
    subject = packaged("llava_next", "selecting")
    bundle = Bundle.open(shutil.copytree(subject.bundle.path, tmp_path / "bundle"))
    assert target.build(bundle).reused
    home = bundle.engines_folder / "tensorrt-llm" / subject.engine.key / "trtllm"
    assert damage_of(home) is None
    settings, weights = home / "vitcop_vision" / "settings.json", home / "vitcop_vision" / "vision.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert damage_of(home) == f"vitcop_vision/vision.safetensors has {len(whole) - 1} bytes, not {len(whole)}"
    settings.unlink()
    assert damage_of(home) == "vitcop_vision/settings.json is missing"
    built = target.build(bundle)
    assert not built.reused and "damaged: vitcop_vision/settings.json is missing" in built.reason
    assert damage_of(home) is None and weights.read_bytes() == whole
    for text in ("", "{}"):
        (home / "manifest.json").write_text(text)
        assert damage_of(home) == "manifest.json cannot be read"


def test_a_family_of_one_axis_gets_no_model_package(packaged):
    subject = packaged("llava_next", "selecting")
    assert sorted(path.name for path in subject.folder.iterdir()) == [
        "equivalent.schedule.json",
        "manifest.json",
        "vitcop_vision",
    ]
    manifest = json.loads((subject.folder / "manifest.json").read_text())
    assert manifest["artefacts"]["vitcop_model"]["what"] is None
    assert "one rotary axis" in manifest["artefacts"]["vitcop_model"]["why_not"]
    assert manifest["artefacts"]["vitcop_vision"]["stock_model"] == "LlavaNextModel"


def test_the_same_inputs_reuse_it(packaged, target):
    subject = packaged("llava_next", "selecting")
    again = target.build(subject.bundle)
    assert again.reused and again.path == subject.engine.path and again.sidecar == subject.engine.sidecar
    assert again.sidecar["report"] == [f"{each.stage}: {each.honoured}: {each.how}" for each in subject.side.report]


def test_the_weights_are_the_checkpoints_own(packaged):
    """vision.safetensors is a safetensors file; it holds the tower's tensors and none of the language model's."""
    subject = packaged("qwen2_5_vl", "merging")
    own = read_header(subject.folder / "vitcop_vision" / "vision.safetensors")
    state = subject.model.state_dict()
    assert own and set(own) < set(state) and not any("language_model" in name for name in own)
    raw = (subject.folder / "vitcop_vision" / "vision.safetensors").read_bytes()
    for name, place in own.items():
        values = np.frombuffer(raw[place.offset : place.offset + place.length], np.float32).reshape(place.shape)
        np.testing.assert_array_equal(values, state[name].numpy())


def test_a_weight_of_another_type_is_refused_by_name(tmp_path):
    tensor = TensorProto(name="table", data_type=TensorProto.INT64, dims=[2], data_location=TensorProto.EXTERNAL)
    graph = onnx.helper.make_graph([], "g", [], [], initializer=[tensor])
    with pytest.raises(InputError, match="table: a weight of type INT64 cannot be packaged"):
        gather_weights(onnx.helper.make_model(graph), tmp_path, tmp_path / "vision.safetensors")
    assert not list(tmp_path.iterdir())


def test_it_has_no_runner(packaged, target):
    subject = packaged("llava_next", "selecting")
    for ask in (
        lambda: target.runner(subject.bundle),
        lambda: target.selector_shares(subject.bundle, None),
    ):
        with pytest.raises(InputError, match="packages a bundle for another program to serve and runs nothing itself"):
            ask()
    assert target.versions() == {}


def test_a_schedule_that_drops_nothing_is_refused(tmp_path, target):
    folder = BUILDERS["llava_next"](tmp_path / "model")
    _, _, family = load_model(Checkpoint.open(folder))
    bundle = bundle_without_graphs(folder, Schedule(num_layers=3), family, tmp_path / "bundle")
    with pytest.raises(InputError, match="its schedule drops nothing; serve the model with TensorRT-LLM as it is"):
        target.build(bundle)
    assert not bundle.engines_folder.exists()


def test_a_model_folder_that_is_gone_or_another_one(packaged, tmp_path, target):
    subject = packaged("llava_next", "selecting")
    model = subject.bundle.weights_folder
    folder, manifest_path = moved_bundle(subject, tmp_path / "bundle")
    manifest = json.loads(manifest_path.read_text())
    manifest["weights"]["folder"] = str(tmp_path / "gone")
    manifest_path.write_text(json.dumps(manifest))
    bundle = Bundle.open(folder, check_weights="none")
    with pytest.raises(InputError, match="no such model folder.*name the model folder with --option model=DIR"):
        target.build(bundle)
    other = BUILDERS["llava_next"](tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="model.safetensors: not the weights of .*--option model=DIR"):
        target.build(bundle, {"model": str(other)})
    with pytest.raises(InputError, match="another config.json"):
        target.build(bundle, {"model": str(packaged("qwen2_5_vl", "merging").bundle.weights_folder)})
    assert not list(bundle.engines_folder.rglob("*.onnx"))
    built = target.build(bundle, {"model": str(model)})
    assert not built.reused and built.key == subject.engine.key
    mine, theirs = (
        {path.relative_to(home): sha256_of_file(path) for path in home.rglob("*.*") if "__pycache__" not in path.parts}
        for home in (built.path / "trtllm", subject.folder)
    )
    assert mine == theirs, "not the same byte for byte"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"modle": "x"}, "no option 'modle' .known: model."), ({"model": 3}, "expected the path of a model folder")],
)
def test_options(packaged, target, options, message):
    with pytest.raises(InputError, match=message):
        target.build(packaged("llava_next", "selecting").bundle, options)


def test_the_command_reports_every_stage(packaged):
    subject = packaged("llava_next", "selecting")
    done = CliRunner().invoke(cli, ["build", str(subject.bundle.path), "--target", "tensorrt-llm"])
    assert done.exit_code == 0 and str(subject.engine.path) in done.stdout
    for line in subject.engine.sidecar["report"]:
        assert f"tensorrt-llm: {line}" in done.stderr


def test_a_dry_run_tells_the_equivalent_and_writes_nothing(packaged, tmp_path):
    subject = packaged("llava_next", "selecting")
    folder, _ = moved_bundle(subject, tmp_path / "bundle")
    command = ["build", str(folder), "--target", "tensorrt-llm", "--dry-run"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0 and not (folder / "engines").exists()
    for line in subject.engine.sidecar["report"]:
        assert line in done.stdout
    assert "model package: no: with one rotary axis" in done.stdout
    told = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    assert told["keep"] == list(subject.side.keep) and not told["model_package"]
    assert told["visual_tokens"]["kept"] == subject.side.count(told["visual_tokens"]["of"])


def test_a_recipe_cannot_run_it(tmp_path):
    from vitcop.export.runtimes.base import PACKAGING, packages_only
    from vitcop.pipeline.preflight import check_recipe
    from vitcop.pipeline.recipe import parse_recipe

    BUILDERS["llava_next"](tmp_path / "model")
    (tmp_path / "eval.jsonl").write_text('{"id": "a", "prompt": "what is this ?", "answer": "red"}\n')
    recipe = {
        "model": "model",
        "data": {"evaluation": "eval.jsonl"},
        "calibrate": {"schedule": "none"},
        "build": {"target": "tensorrt-llm"},
    }
    with pytest.raises(InputError) as error:
        check_recipe(parse_recipe(recipe, folder=tmp_path))
    assert str(error.value) == str(packages_only("tensorrt-llm")) and PACKAGING == ("tensorrt-llm",)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision(tmp_path, half):
    """bfloat16 becomes fp32, exactly; float16 stays."""
    folder = BUILDERS["llava_next"](tmp_path / "model")
    model, processor, family = load_model(Checkpoint.open(folder), dtype=half)
    model.save_pretrained(folder)
    side = vision_side(
        Schedule(num_layers=3, drops=(Drop(layer=1, keep=(1, 2)),)), vision_score=family.vision_scores[0]
    )
    kind = export_vision(Checkpoint.open(folder), side, tmp_path)
    assert kind == {torch.bfloat16: "float32", torch.float16: "float16"}[half]
    graph = onnx.load(tmp_path / "vision.onnx")
    found = {tensor.data_type for tensor in graph.graph.initializer} & {TensorProto.FLOAT, TensorProto.FLOAT16}
    assert TensorProto.BFLOAT16 not in {tensor.data_type for tensor in graph.graph.initializer}
    assert (TensorProto.FLOAT16 in found) == (half == torch.float16)

    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "vision.onnx"), providers=["CPUExecutionProvider"])
    batch = family.prepare(processor, [family.placeholders(processor)[0]], [[picture(40, 24, 0)]])
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    feeds = {item.name: batch.vision_inputs[item.name].astype(types[item.type]) for item in session.get_inputs()}
    features, kept = session.run(["visual_features", "kept_patches"], feeds)
    exact, _, _ = load_model(Checkpoint.open(folder), dtype="float32")
    expected = keep_patches(run_vision(exact, family, batch), side.vision)
    tolerance = 2e-5 if kind == "float32" else 0.05 * float(np.abs(expected.planes[0].numpy()).max())
    if kind == "float32":
        np.testing.assert_array_equal(kept, expected.kept_patches.numpy())
        np.testing.assert_allclose(features, expected.planes[0].numpy(), atol=tolerance, rtol=2e-5)
    else:
        common = np.intersect1d(kept[0], expected.kept_patches[0].numpy())
        assert len(common) > 0.8 * kept.shape[1]
        mine, theirs = (np.isin(each, common) for each in (kept[0], expected.kept_patches[0].numpy()))
        np.testing.assert_allclose(features[0, mine], expected.planes[0][0, theirs].numpy(), atol=tolerance)


@pytest.mark.parametrize("keep", [(1, 9), (3, 64)])
def test_vision_stages_that_keep_little(tmp_path, keep):
    """More visual tokens than the usual example of a traced graph has are needed for two to be left."""
    folder = BUILDERS["llava_next"](tmp_path / "model")
    _, _, family = load_model(Checkpoint.open(folder))
    stage = VisionStage(score=family.vision_scores[0], keep=keep)
    side = vision_side(Schedule(num_layers=3, vision=stage), vision_score="mean_query")
    assert side.vision == replace(stage, clusters=None)
    export_vision(Checkpoint.open(folder), side, tmp_path)
    assert (tmp_path / "vision.onnx").stat().st_size > 0
