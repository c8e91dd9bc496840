"""Bad input: exit status 2, one clear line on stderr that names the thing, nothing made, nothing lost, no model run."""

import errno
import json
import os
import shutil
import struct
import zlib
from collections import namedtuple
from pathlib import Path

import pytest
from fake_project import CONFIG, files_of, write_model, write_samples

from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.calibrate.work.shards import PartialTable, Shard


@pytest.fixture
def refuses(invoke, fake_stages, project):
    """Runs a command that must fail; checks status, the one line, and that nothing else happened."""

    def check(*args: object, names: tuple[str, ...], status: int = 2) -> str:
        before = files_of(project)
        result = invoke(*args)
        assert result.exit_code == status, result.stderr
        lines = result.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("vitcop: error: "), result.stderr
        for name in names:
            assert name in lines[0]
        assert result.stdout == ""
        assert files_of(project) == before
        assert not (project / "out").exists() or "keep.txt" in os.listdir(project / "out")
        assert fake_stages.ran == []
        return lines[0]

    return check


@pytest.fixture
def refuses_run(refuses, project):
    """`vitcop run` on the project's recipe must fail."""
    return lambda *names: refuses("run", project / "recipe.yaml", "-o", project / "out", names=names)


def edit(project: Path, old: str, new: str) -> None:
    file = project / "recipe.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def change_sample(project: Path, split: str, number: int, **values: object) -> None:
    file = project / "data" / f"{split}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[number] = {key: value for key, value in (rows[number] | values).items() if value is not None}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("budget:", "budgget:", ("calibrate.budgget", "did you mean calibrate.budget?")),
        (
            "calibrate:\n",
            "calibrate:\n  copy_weight: true\n",
            ("calibrate.copy_weight", "did you mean export.copy_weights?"),
        ),
        ("model: model", "model: model\nmodle: other", ("modle", "did you mean model?")),
        ("model: model", "model: model\nxyzzy: 1", ("xyzzy", "known here: model, device, attn, data")),
    ],
)
def test_unknown_recipe_key_names_the_nearest(refuses_run, project, old, new, names):
    edit(project, old, new)
    refuses_run("recipe.yaml", *names)


@pytest.mark.parametrize(
    "budget", ["0", "0/3", "-0.1", "1.01", "4/3", "nan", "inf", "abc", "1/0", "true", "[1]", "1e400"]
)
def test_budget_outside_its_range(refuses_run, project, budget):
    edit(project, "budget: 1/3", f"budget: {budget}")
    refuses_run("recipe.yaml", "calibrate.budget", "at most 1")


@pytest.mark.parametrize("budget", ["0", "-1", "1.5", "2/1", "x"])
def test_budget_outside_its_range_on_the_command_line(refuses, project, budget):
    data = project / "data"
    files = ("--calibration", data / "calibration.jsonl", "--selection", data / "selection.jsonl")
    refuses(
        "calibrate",
        project / "model",
        *files,
        f"--budget={budget}",
        "-o",
        project / "out",
        names=("budget", "at most 1", budget),
    )


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (("--shard", "5/3"), ("shard 5/3", "i from 1 to n")),
        (("--shard", "half"), ("shard 'half'", "such as 1/4")),
        (("--shard", "1/2", "--merge", "{project}"), ("shard 1/2", "nothing to merge")),
        (("--merge", "{project}/data"), ("data: no partial tables",)),
        (("--merge", "{project}/recipe.yaml"), ("recipe.yaml: not readable as JSON",)),
        (("--merge", "{project}/partial-1-of-2.json"), ("1 of 2 units", "shards 2/2 are missing")),
        (("--merge", "{project}/gone.json"), ("gone.json: no such file",)),
    ],
)
def test_shards_that_cannot_be(refuses, project, given, names):
    table = PartialTable(run={}, units=("a", "b"), shards=(Shard(1, 2),), results={"a": {}})
    table.save(project / "partial-1-of-2.json")
    data = project / "data"
    files = ("--calibration", data / "calibration.jsonl", "--selection", data / "selection.jsonl")
    options = [text.format(project=project) for text in given]
    refuses("calibrate", project / "model", *files, *options, "-o", project / "out", names=names)


@pytest.mark.parametrize(
    ("given", "status", "names"),
    [
        (("--device", "cuda"), 4, ("device cuda: no CUDA device", "use device cpu")),
        (("--device", "gpu"), 2, ("device 'gpu'", "use cpu, cuda")),
        (("--dtype", "fp7"), 2, ("dtype 'fp7'", "use fp32, fp16, bf16")),
        (("--metric", "bleu"), 2, ("metric 'bleu'", "exact_match")),
        (("--batch-size", "0"), 2, ("--batch-size", "x>=1")),
        (("--head-reductions", "mean_key,meen"), 2, ("--head-reductions", "'meen' is not one of mean_key, mean_norm")),
        (("--merge-orders", "up"), 2, ("--merge-orders", "'up' is not one of smallest, largest")),
        (("--rungs", "0.5"), 2, ("rungs: must ascend", "end at 1")),
        (("--flops", "inf"), 2, ("flops inf", "above 0")),
        (("--budget", "1/3", "--flops", "1e9"), 2, ("budget and flops are given", "one constraint")),
        (("--latency-ms", "5"), 2, ("latency_ms needs", "vitcop bench --cost-table")),
        (("--subset-limit", "color=-1"), 2, ("limit on subset 'color'", "at least 0")),
        (("--attn", "flash_attention_2"), 4, ("flash_attention_2 runs on CUDA devices alone, not on cpu",)),
        (("--attn", "flash_attention_2", "--device", "cuda", "--dtype", "fp16"), 4, ("no CUDA device",)),
    ],
)
def test_a_search_that_cannot_run_as_asked(refuses, project, monkeypatch, given, status, names):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    data = project / "data"
    files = ("--calibration", data / "calibration.jsonl", "--selection", data / "selection.jsonl")
    refuses("calibrate", project / "model", *files, *given, "-o", project / "out", names=names, status=status)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("model: [", ("not YAML", "line 1")),
        ("- a\n", ("expected keys and values",)),
        ("", ("expected keys and values",)),
        ("!!python/object/apply:os.system ['true']", ("not YAML",)),
    ],
)
def test_recipe_that_is_no_recipe(refuses_run, project, text, names):
    (project / "recipe.yaml").write_text(text)
    refuses_run("recipe.yaml", *names)


def test_missing_recipe(refuses, project):
    refuses("run", project / "other.yaml", "-o", project / "out", names=("other.yaml", "no such recipe"))


def test_recipe_with_missing_key(refuses_run, project):
    edit(project, "  selection: data/selection.jsonl\n", "")
    refuses_run("data.selection: missing")


def test_same_file_for_two_splits(refuses_run, project):
    edit(project, "data/selection.jsonl", "../mein Projekt ü/data/evaluation.jsonl")
    refuses_run("data.selection", "data.evaluation", "same file")


def test_missing_sample_file(refuses_run, project):
    (project / "data" / "selection.jsonl").unlink()
    refuses_run("selection.jsonl")


@pytest.mark.parametrize("split", ["calibration", "selection", "evaluation"])
def test_missing_image(refuses_run, project, split):
    (project / "data" / "images" / f"{split}-1.png").unlink()
    refuses_run(f"{split}-1.png", f"sample {split}-1", "not there")


def test_unreadable_image(refuses_run, project):
    (project / "data" / "images" / "evaluation-2.png").write_bytes(b"this is no image\n\0" * 9)
    refuses_run("evaluation-2.png", "sample evaluation-2", "cannot be decoded")


def test_image_without_permission(refuses_run, project):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (project / "data" / "images" / "evaluation-2.png").chmod(0)
    refuses_run("evaluation-2.png", "sample evaluation-2")


def test_truncated_image(refuses_run, project):
    image = project / "data" / "images" / "selection-0.png"
    image.write_bytes(image.read_bytes()[:60])
    refuses_run("selection-0.png", "sample selection-0", "cannot be decoded")


def test_absurdly_large_image(refuses_run, project):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    (project / "data" / "images" / "calibration-0.png").write_bytes(png)
    refuses_run("calibration-0.png", "sample calibration-0", "pixels")


def test_sample_without_image_placeholder(refuses_run, project):
    conversation = [{"role": "user", "content": "what is it?"}]
    change_sample(project, "selection", 1, prompt=None, conversation=conversation)
    refuses_run("selection.jsonl:2", "sample selection-1", "no image placeholder")


def test_sample_without_image(refuses_run, project):
    change_sample(project, "selection", 1, images=None)
    refuses_run("selection.jsonl:2", "sample selection-1", "images")


def test_samples_that_are_not_utf8(refuses_run, project):
    file = project / "data" / "evaluation.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"blue", b"bl\xfc")
    file.write_bytes(b"".join(lines))
    refuses_run("evaluation.jsonl:2", "UTF-8")


def test_samples_that_are_not_json(refuses_run, project):
    with (project / "data" / "calibration.jsonl").open("a") as file:
        file.write('{"id": "calibration-9", "images": [\n')
    refuses_run("calibration.jsonl:4", "not JSON")


def test_sample_in_two_splits(refuses_run, project):
    shutil.copy(project / "data" / "images" / "selection-1.png", project / "data" / "images" / "evaluation-2.png")
    refuses_run("sample evaluation-2", "data.evaluation", "data.selection", "selection-1")


def test_schedule_for_another_number_of_layers(refuses, refuses_run, project):
    (project / "other.json").write_text(Schedule(num_layers=7).to_json())
    edit(project, "budget: 1/3", "schedule: other.json")
    refuses_run("other.json", "7 layers", "4")
    args = ("export", project / "model", "--schedule", project / "other.json", "-o", project / "bundle")
    refuses(*args, names=("other.json", "7 layers", "4"))


def test_schedule_for_another_model(refuses, refuses_run, project):
    (project / "other.json").write_text(Schedule(num_layers=4, model_id="llava-7b", config_hash="abc123").to_json())
    edit(project, "budget: 1/3", "schedule: other.json")
    refuses_run("other.json", "llava-7b", "abc123", "model")
    args = ("export", project / "model", "--schedule", project / "other.json", "-o", project / "bundle")
    refuses(*args, names=("llava-7b", "abc123"))


@pytest.mark.parametrize("schedule", ["paper-1/4", "nothing.json"])
def test_schedule_that_is_not_there(refuses, project, schedule):
    args = ("export", project / "model", "--schedule", schedule, "-o", project / "bundle")
    refuses(*args, names=(schedule, "paper-1/3"))


def test_export_into_a_folder_that_is_no_bundle(refuses, project):
    (project / "notes").mkdir()
    (project / "notes" / "keep.txt").write_text("mine")
    args = ("export", project / "model", "--schedule", "none", "-o", project / "notes")
    refuses(*args, names=("notes", "not a vitcop bundle"))


def test_output_folder_that_is_not_ours(refuses_run, project):
    (project / "out").mkdir()
    (project / "out" / "keep.txt").write_text("mine")
    refuses_run("out", "not empty")


def test_output_folder_that_is_a_file(refuses, project):
    (project / "keep").write_text("mine")
    refuses("run", project / "recipe.yaml", "-o", project / "keep", names=("keep", "is a file"))


def test_model_folder_with_pickled_weights_only(refuses_run, project):
    (project / "model" / "model.safetensors").rename(project / "model" / "pytorch_model.bin")
    refuses_run("model", "pickled", "pytorch_model.bin", "safetensors")


def test_model_folder_that_is_not_there(refuses_run, project):
    edit(project, "model: model", "model: nowhere")
    refuses_run("nowhere", "no such model folder")


def test_model_of_an_unknown_architecture(refuses_run, project):
    edit(project, "model: model", "model: gpt")
    write_model(project / "gpt", config=CONFIG | {"architectures": ["GPT2LMHeadModel"]})
    refuses_run("GPT2LMHeadModel", "not supported")


def test_target_that_is_not_known(refuses_run, project):
    with (project / "recipe.yaml").open("a") as file:
        file.write("build:\n  target: openvino\n")
    refuses_run("build.target", "onnxruntime", "openvino")


def test_no_disk_space_before_the_start(refuses_run, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9 - 5000, 5000))
    refuses_run("no disk space", "needed", "free")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "verify.json"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "verify.json"),
        RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"),
    ],
)
def test_no_disk_space_on_the_way(invoke, fake_stages, project, error):
    fake_stages.fail["verify"] = error
    result = invoke("run", project / "recipe.yaml", "-o", project / "out")
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("vitcop: error: no disk space left")
    assert not (project / "out" / "verify.json").exists()
    fake_stages.fail.clear()
    fake_stages.ran.clear()
    assert invoke("run", project / "recipe.yaml", "-o", project / "out").exit_code == 0
    assert fake_stages.ran == ["verify", "reference", "bench", "report"]


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (("run",), ("Missing argument", "RECIPE")),
        (("run", "x.yaml", "-o", "out", "--fast"), ("No such option", "--fast")),
        (("calibarte",), ("No such command", "calibarte")),
        (("generate", "b", "--image", "a.png", "--prompt", "x", "--top-k", "-3"), ("--top-k",)),
        (("verify", "b", "--data", "d.jsonl", "--limit", "0"), ("--limit",)),
    ],
)
def test_wrong_usage(refuses, args, names):
    refuses(*args, names=names)


@pytest.mark.parametrize("command", ["build", "verify", "bench", "generate"])
def test_bundle_that_is_not_there(refuses, project, command):
    write_samples(project / "more" / "samples.jsonl")
    more = {
        "verify": ("--data", project / "more" / "samples.jsonl"),
        "bench": ("--data", project / "more" / "samples.jsonl"),
        "generate": ("--image", project / "data" / "images" / "evaluation-0.png", "--prompt", "what?"),
    }
    refuses(command, project / "nothing", *more.get(command, ()), names=("nothing", "not a vitcop bundle"))


def test_inspect_something_else(refuses, project):
    refuses("inspect", project / "nothing", names=("nothing", "no such file"))
    refuses("inspect", project / "data" / "evaluation.jsonl", names=("evaluation.jsonl", "not readable as JSON"))


def test_control_characters_in_names_stay_on_one_line(refuses, project):
    line = refuses("run", project / "a\nb\x1b[31m.yaml", "-o", project / "out", names=("a b", ".yaml"))
    assert "\x1b" not in line
