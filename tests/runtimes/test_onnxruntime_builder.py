"""Building checks the graphs against the contract, is atomic, and reuses what still holds."""

import json
import shutil

import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from toy_bundle import PRUNED, SHARD, toy_model_folder, toy_weights, write_toy

from vitcop.export.runtimes import engine_folder, open_target, target_names
from vitcop.export.runtimes.onnxruntime import OnnxRuntimeOptions, build
from vitcop.pipeline.cli import cli
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import REVISIONS


@pytest.fixture
def model_folder(tmp_path):
    return toy_model_folder(tmp_path / "model")


def test_build_then_reuse(tmp_path, model_folder):
    bundle = write_toy(tmp_path / "b", model_folder)
    first = build(bundle)
    assert not first.reused and first.path == bundle.path / "engines" / "onnxruntime" / first.key
    sidecar = (first.path / "engine.json").read_bytes()
    second = build(bundle)
    assert second.reused and "the same" in second.reason and second.key == first.key
    assert (first.path / "engine.json").read_bytes() == sidecar
    assert json.loads(sidecar) == first.sidecar == second.sidecar
    assert next(name for name, _, _ in first.sidecar["graphs"]["prefill"]["inputs"]) == "input_ids"
    assert first.sidecar["inputs"]["provider"] == "CPUExecutionProvider"
    assert str(tmp_path) not in sidecar.decode()


def test_other_options_make_another_engine_and_say_so(tmp_path, model_folder):
    bundle = write_toy(tmp_path / "b", model_folder)
    first, second = build(bundle), build(bundle, OnnxRuntimeOptions(threads=1))
    assert first.key != second.key and not second.reused and "options differ" in second.reason
    assert build(bundle).reused


def test_another_revision_of_an_op_makes_another_engine(tmp_path, model_folder, monkeypatch):
    bundle = write_toy(tmp_path / "b", model_folder)
    first = build(bundle)
    assert first.sidecar["inputs"]["op_revisions"] == REVISIONS
    monkeypatch.setitem(REVISIONS, "ClusterMergePlan", REVISIONS["ClusterMergePlan"] + 1)
    second = build(bundle)
    assert first.key != second.key and not second.reused and "op_revisions differ" in second.reason


def test_two_builds_of_one_engine_at_once(tmp_path, model_folder, monkeypatch):
    bundle, rename = write_toy(tmp_path / "b", model_folder), engine_folder.os.rename

    def late(source, target):
        shutil.copytree(source, target)
        rename(source, target)

    monkeypatch.setattr(engine_folder.os, "rename", late)
    made = build(bundle)
    assert json.loads((made.path / "engine.json").read_text()) == made.sidecar
    assert [path.name for path in made.path.parent.iterdir()] == [made.key]


@pytest.mark.parametrize("copied", [False, True])
def test_the_command_refuses_weights_changed_in_place(tmp_path, model_folder, copied):
    bundle = write_toy(tmp_path / "b", model_folder, copy_weights=copied)
    assert CliRunner().invoke(cli, ["build", str(bundle.path)]).exit_code == 0
    save_file(toy_weights(seed=1), bundle.weights_folder / SHARD)
    result = CliRunner().invoke(cli, ["build", str(bundle.path)])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert f"{SHARD}: changed since the export" in result.stderr and "export the bundle again" in result.stderr


def test_a_broken_sidecar_is_built_again(tmp_path, model_folder):
    bundle = write_toy(tmp_path / "b", model_folder)
    first = build(bundle)
    (first.path / "engine.json").write_text("{")
    again = build(bundle)
    assert not again.reused and again.sidecar == first.sidecar


def test_the_bytes_are_reproducible(tmp_path, model_folder):
    one = build(write_toy(tmp_path / "a", model_folder))
    two = build(write_toy(tmp_path / "b", model_folder))
    assert (one.path / "engine.json").read_bytes() == (two.path / "engine.json").read_bytes()


def test_an_interrupted_build_leaves_nothing(tmp_path, model_folder, monkeypatch):
    bundle = write_toy(tmp_path / "b", model_folder)

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_folder.os, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        build(bundle)
    assert list((bundle.path / "engines" / "onnxruntime").iterdir()) == []


def rename_output(graphs):
    graph = graphs["prefill"].graph
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == "kept_visual_0":
                node.output[index] = "kept"
    graph.output[-1].name = "kept"


def drop_output(graphs):
    del graphs["vision"].graph.output[-1]


def unread_mask(graphs):
    del graphs["decode"].graph.input[2]
    graphs["decode"].graph.node.add(op_type="Identity", input=["input_ids"], output=["attention_mask_0"])


def other_width(graphs):
    graphs["prefill"].graph.output[0].type.tensor_type.shape.dim[2].dim_param = "vocab"
    for node in graphs["prefill"].graph.node:
        if node.output[0] == "logits":
            node.input[0] = "all"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename_output, r"prefill\.onnx: output 'kept"),
        (drop_output, r"vision\.onnx: output 'kept_patches' is missing"),
        (unread_mask, r"decode\.onnx: input 'attention_mask_0' is missing"),
        (other_width, r"prefill\.onnx: output 'logits'|prefill\.onnx: cannot be loaded"),
    ],
)
def test_a_graph_that_breaks_the_contract(tmp_path, model_folder, change, words):
    bundle = write_toy(tmp_path / "b", model_folder, change=change)
    with pytest.raises(InputError, match=words):
        build(bundle)
    assert not list(bundle.path.glob("engines/onnxruntime/*/engine.json"))


def test_a_schedule_with_more_drops_than_the_graphs(tmp_path, model_folder):
    import dataclasses

    from vitcop.calibrate.schedule.schedule import Clusters, Drop, VisionStage

    bundle = write_toy(tmp_path / "b", model_folder)
    merging = dataclasses.replace(
        PRUNED,
        vision=VisionStage(keep=(3, 4), clusters=Clusters(centers=(1, 3))),
        drops=(Drop(layer=1, op="merge", keep=(2, 3)),),
    )
    with pytest.raises(InputError, match=r"vision\.onnx: input 'visual_grid' is missing"):
        build(dataclasses.replace(bundle, schedule=merging))


class TestTargets:
    def test_known(self):
        assert "onnxruntime" in target_names() and open_target("onnxruntime").name == "onnxruntime"

    def test_unknown(self):
        with pytest.raises(InputError, match="not known; available: onnxruntime"):
            open_target("openvino")

    def test_through_the_protocol(self, tmp_path, model_folder):
        target, bundle = open_target("onnxruntime"), write_toy(tmp_path / "b", model_folder)
        assert target.build(bundle, {"threads": 1}).target == "onnxruntime"
        assert target.runner(bundle, {"threads": 1}).name == "onnxruntime"
        assert "onnxruntime" in target.versions()
        with pytest.raises(InputError, match="no option 'fp16'"):
            target.build(bundle, {"fp16": True})
