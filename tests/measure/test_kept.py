"""What `verify` keeps of the patches, and the report that is drawn from it: a function of files."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twin import TwinTarget, build_model, build_samples, write_twin_bundle

from vitcop.calibrate.data.samples import load_samples
from vitcop.calibrate.models.families.layout import GRID, grid_places
from vitcop.calibrate.run.runner import DropTrace, Prefill
from vitcop.export.measure import rungs, verify
from vitcop.export.measure.kept import choose, one_tile, stages_of
from vitcop.pipeline import report
from vitcop.pipeline.settings import ReportSettings
from vitcop.plugins.errors import InputError

LOGITS = np.zeros((2, 3), dtype=np.float32)


def prefill(vision=None, drops=()) -> Prefill:
    return Prefill(logits=LOGITS, state=None, vision=vision, drops=tuple(drops))


def kept(*rows: list[int], **more) -> DropTrace:
    return DropTrace(kept_visual=np.array(rows), **more)


def test_indices_chain_from_stage_to_stage():
    done = prefill(kept([0, 1, 2], [1, 3, 5]), [kept([0, 1], [0, 2]), kept([0], [1])])
    assert stages_of(done, 1, 6) == ["1 3 5", "1 5", "5"]


def test_merged_tokens_stand_for_all_their_patches():
    assignment = np.array([[[1, 0, 0, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0]]])
    done = prefill(kept([0, 2, 3, 5]), [kept([0, 1, 2], assignment=assignment), kept([1])])
    assert stages_of(done, 0, 6) == ["0 2 3 5", "0 2+5 3", "2+5"]


def test_without_a_vision_stage_all_patches_enter():
    assert stages_of(prefill(), 0, 4) == ["0 1 2 3"]


@given(st.data())
def test_every_stage_keeps_a_part_of_the_one_before(data):
    num = present = data.draw(st.integers(1, 30))
    traces = []
    for _ in range(3):
        subset = data.draw(st.sets(st.integers(0, present - 1), min_size=1))
        traces.append(kept(sorted(subset)))
        present = len(subset)
    before = set(range(num))
    for stage, trace in zip(stages_of(prefill(traces[0], traces[1:]), 0, num), traces, strict=True):
        now = [int(token) for token in stage.split()]
        assert len(now) == trace.kept_visual.shape[1] and set(now) <= before
        before = set(now)


def test_samples_of_all_subsets_and_each_image_once():
    named = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "4"), (None, "5"), ("b", "67"), ("b", "")]
    samples = [
        SimpleNamespace(id=str(i), subset=subset, images=tuple(images), video=None)
        for i, (subset, images) in enumerate(named)
    ]
    samples.append(SimpleNamespace(id="film", subset=None, images=("8",), video="film.gif"))
    assert [sample.id for sample in choose(samples)] == ["0", "4", "5", "1", "2"] and choose([]) == []


def test_only_cells_of_one_picture_can_be_drawn():
    def of(places, pixels=(2, 3, 8, 8)):
        inputs = {GRID: np.stack([places, places]), "pixel_values": np.zeros(pixels)}
        return one_tile(SimpleNamespace(vision_inputs=inputs, num_visual=len(places)), 1)

    cells = grid_places(2, 3)
    assert of(cells) == (2, 3) and of(cells[::-1]) is None and of(cells[:-1]) is None
    assert of(np.tile(cells, (2, 1))) is None, "two tiles"
    assert of(cells, (12, 48)) is None, "no picture, but patches in a row"
    assert one_tile(SimpleNamespace(vision_inputs={}, num_visual=0), 0) is None


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """(output folder of a run, its samples)."""
    folder = tmp_path_factory.mktemp("run")
    samples = build_samples(folder / "data")
    bundle = write_twin_bundle(folder / "bundle", build_model(folder / "model"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rungs, "open_target", lambda _name: TwinTarget())
        found = verify(bundle, load_samples(samples), target="twin", controls=False, batch_size=3, max_new_tokens=2)
    (folder / "verify.json").write_text(found.to_json())
    return folder, samples


def test_what_verify_json_holds(verified):
    told = json.loads((verified[0] / "verify.json").read_text())["kept"]
    assert [entry["id"] for entry in told] == ["q0", "q3", "q4", "q7"]
    for entry in told:
        num = entry["grid"][0] * entry["grid"][1]
        counts = [len(stage.split()) for stage in entry["stages"]]
        assert counts == [num * 3 // 4, num // 2, num // 4]


NOTHING_RUNS = """
import sys
sys.modules["torch"] = sys.modules["onnxruntime"] = None  # An import of either would raise.
from vitcop.pipeline.cli import main
main()
"""


def test_a_report_needs_no_engine_and_no_torch_and_is_the_same_again(verified):
    folder, samples = verified
    call = [sys.executable, "-c", NOTHING_RUNS, "report", str(folder), "--data", str(samples), "--overlays", "3"]
    subprocess.run(call, capture_output=True, check=True)
    page = (folder / "report.html").read_text()
    assert page.count("<article>") == 3 and page.count("data:image/png") == 3 * 4
    assert report(folder, ReportSettings(overlays=3), data=samples, out=folder / "again.html").read_text() == page


def test_where_nothing_can_be_drawn_the_report_says_why(verified, tmp_path):
    folder, samples = verified
    (tmp_path / "bundle").symlink_to(folder / "bundle")

    def page(data=samples, **how):
        return report(tmp_path, ReportSettings(**how), data=data).read_text()

    assert "The bundle was not verified, so" in page()
    told = json.loads((folder / "verify.json").read_text())
    (tmp_path / "verify.json").write_text(json.dumps(told | {"kept": []}))
    assert "No sample is one picture" in page()
    assert "No samples were given" in page(data=None) and "None were asked for" in page(overlays=0)
    (tmp_path / "verify.json").write_text(json.dumps(told | {"kept": [{"id": "q0"}]}))
    with pytest.raises(InputError, match="lacks what the report needs .*grid"):
        page()
    del told["kept"]
    (tmp_path / "verify.json").write_text(json.dumps(told))
    assert "verify.json is of an older version" in page()


def test_samples_that_were_not_verified_are_refused(verified, tmp_path):
    folder, _ = verified
    with pytest.raises(InputError, match="not the samples of verify.json"):
        report(folder, data=build_samples(tmp_path, 6))
