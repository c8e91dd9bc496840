"""The report says what was measured and what was not, escapes what it is given, and fetches nothing."""

import re
import xml.dom.minidom
from dataclasses import asdict
from html.parser import HTMLParser

import made_up_results
import pytest
from made_up_results import results, verification

from vitcop.pipeline.reporting.charts import draw_curve, draw_staircase, draw_times
from vitcop.pipeline.reporting.collect import collect
from vitcop.pipeline.reporting.model import Frame, Overlay
from vitcop.pipeline.reporting.numbers import points
from vitcop.pipeline.reporting.page import render
from vitcop.pipeline.reporting.score_grid import draw_score_grid

VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Checks that tags are closed in order; collects what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag


@pytest.fixture
def page(tmp_path):
    """Renders made-up results."""

    def make(schedule=made_up_results.SCHEDULE, overlays=(), title="", **changes) -> str:
        bundle = made_up_results.bundle(tmp_path / "bundle", schedule)
        note = "" if overlays else "No samples were given (--data)."
        return render(collect(bundle, results(**changes), title=title, overlays=overlays, overlay_note=note))

    return make


def test_page_is_whole_and_fetches_nothing(page):
    picture = "data:image/png;base64,AAAA"
    overlay = Overlay(
        sample="a",
        question="what <b>color</b>?",
        expected="blue",
        answers=(("engine", ""),),
        frames=(Frame(caption="8 at LLM input", picture=picture),),
    )
    html = page(overlays=(overlay,), title="Shapes & <digits>")
    parser = Balance()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert parser.links == [picture]
    assert "<script" not in html and "url(" not in html and "@import" not in html and "http" not in html
    assert (
        "Shapes &amp; &lt;digits&gt;" in html and "what &lt;b&gt;color&lt;/b&gt;?" in html and "&lt;i&gt;size" in html
    )
    assert "(empty)" in html


def test_same_results_same_bytes(page):
    assert page() == page()


def test_passed(page):
    html = page()
    assert ">PASSED<" in html and 'class="ok"' in html
    text = re.sub(r"<[^>]+>", " ", html)
    for words in (
        "34.4 %",
        "8 → 6 → 2",
        "82.0 → 80.0 → 80.0",
        "7.6e-06",
        "2.50×",
        "−1.1 to +5.0",
        "not held",
        "99.50 %",
    ):
        assert words in text, words
    assert "PyTorch, unpruned runs its vision tower" in text and "process_peak" not in text


def test_failed_names_the_gates(page):
    html = page(verify=verification(passed=False, loss=0.3))
    assert ">FAILED<" in html and 'class="bad"' in html
    assert "1 of 2 gates failed: logit_deviation is 0.3, limit 0.0001." in html


def test_a_value_that_is_not_finite(page):
    html = page(verify=verification(passed=False, loss=float("inf")))
    assert "logit_deviation is not finite" in html and "not finite (layer 3)" in html


def test_missing_parts_are_said_and_not_faked(page):
    html = page(calibration=None, verify=None, bench=None)
    assert ">NOT VERIFIED<" in html and "nothing here is proved" in html
    for words in (
        "not searched for",
        "The bundle was not verified.",
        "No times were measured.",
        "No samples were given",
    ):
        assert words in html
    for words in ("PASSED", "FAILED", "Speed", "Export loss", "Two losses", "part by part"):
        assert words not in html


def test_no_answers_no_scores(page):
    html = page(verify=verification(answers=False))
    assert "No evaluation sample has an answer." in html and "Score, %" not in html


def test_empty_schedule(page):
    html = page(schedule=made_up_results.empty_schedule())
    assert "100.0 %" in html and "all visual tokens" in html and "nothing is dropped inside the LLM" in html


def test_charts_are_sound_xml(tmp_path):
    report = collect(made_up_results.bundle(tmp_path / "b"), results(), overlay_note="-")
    charts = [*map(draw_curve, report.curves), draw_staircase(report.staircase), draw_times(report.times)]
    charts += map(draw_score_grid, report.score_grids)
    assert len(charts) == 6
    for chart in charts:
        document = xml.dom.minidom.parseString(chart)
        for node in document.getElementsByTagName("*"):
            for name in ("x", "x1", "x2"):
                if node.hasAttribute(name):
                    assert -1 <= float(node.getAttribute(name)) <= 481
            for name in ("width", "height"):
                if node.hasAttribute(name):
                    assert float(node.getAttribute(name)) >= 0


def test_the_chosen_schedule_is_on_both_curves(tmp_path):
    report = collect(made_up_results.bundle(tmp_path / "b"), results(), overlay_note="-")
    assert [curve.title for curve in report.curves] == ["Task score", "Distance from the original"]
    for curve in report.curves:
        kinds = [point.kind for point in curve.points]
        assert kinds.count("chosen") == 1 and kinds.count("candidate") == 1
        assert {"same", "paper", "uniform", "random"} <= set(kinds)


def test_scores_that_tell_something_are_told_apart(tmp_path, page):
    ranks, shares = collect(made_up_results.bundle(tmp_path / "b"), results(), overlay_note="-").score_grids
    for grid in (ranks, shares):
        rows = dict(grid.rows)
        assert list(rows) == ["class attention", "K-norm", "control: random"]
        assert [cell and cell.sign for cell in rows["K-norm"]] == [None, -1, 1, 0]
        assert [cell and cell.sign for cell in rows["class attention"]] == [1, None, None, None]
        assert {cell.sign for cell in rows["control: random"]} == {0}
    drawn = draw_score_grid(ranks)
    assert ">−.30<" in drawn and "tells-small tone-4" in drawn and "tells-large" in drawn and "before layer 1" in drawn
    assert "which scores tell what" in page().lower() and "smallest first 40.0 %" in page()
    assert "with a correlation of 0.50 to 0.65, layer by layer, on 18 of the 96 samples" in page()


def test_many_layers_have_no_room_for_numbers(tmp_path):
    data = made_up_results.calibration() | {"observation": asdict(made_up_results.observation(32))}
    report = collect(made_up_results.bundle(tmp_path / "b"), results(calibration=data), overlay_note="-")
    drawn = draw_score_grid(report.score_grids[0])
    xml.dom.minidom.parseString(drawn)
    assert ">.01<" not in drawn and "+0.010" in drawn and ">30<" in drawn and ">31<" not in drawn


def test_nothing_observed_nothing_drawn(page):
    empty = {"agreements": [], "checks": [], "k_norm": [], "num": 0, "pictures": 0, "num_checked": 0}
    for data in ({}, empty):
        html = page(calibration=made_up_results.calibration() | {"observation": data})
        assert "which scores tell" not in html.lower()


def test_one_point_and_no_errors_can_be_drawn(tmp_path):
    data = made_up_results.calibration()
    data["curve"], data["selection"] = [], data["selection"][:1]
    for name in ("exact", "kl"):
        data["selection"][0][name]["error"] = 0.0
    report = collect(made_up_results.bundle(tmp_path / "b"), results(calibration=data), overlay_note="-")
    for curve in report.curves:
        xml.dom.minidom.parseString(draw_curve(curve))


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.0"), (-0.0001, "0.0"), (0.0333, "+3.3"), (-0.02, "−2.0")])
def test_points(value, text):
    assert points(value) == text
