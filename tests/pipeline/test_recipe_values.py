"""Recipe values: what they become, and what is said of wrong ones."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitcop.calibrate.core.settings import share
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.pipeline.recipe import all_keys, load_recipe, parse_recipe
from vitcop.pipeline.recipe_reference import recipe_reference
from vitcop.pipeline.settings import SearchSettings
from vitcop.plugins.errors import InputError

LEAST = {"model": "m", "data": {"calibration": "a", "selection": "b", "evaluation": "c"}}
EXAMPLE = Path(__file__).parents[2] / "examples" / "shapes_vqa" / "recipe.yaml"


def parse(**sections):
    return parse_recipe({**LEAST, **sections}, folder=Path("/somewhere"))


@pytest.mark.parametrize(
    ("value", "budget"), [("1/3", 1 / 3), ("2 / 9", 2 / 9), (0.25, 0.25), (1, 1.0), ("0.5", 0.5), ("1e-1", 0.1)]
)
def test_budget(value, budget):
    assert share(value.replace(" ", "") if isinstance(value, str) else value) == pytest.approx(budget)


@given(
    st.one_of(
        st.text(max_size=8), st.floats(), st.integers(), st.none(), st.booleans(), st.lists(st.integers(), max_size=2)
    )
)
def test_budget_is_in_its_range_or_refused(value):
    try:
        budget = share(value)
    except ValueError:
        return
    assert 0 < budget <= 1


def test_paths_are_relative_to_the_recipe():
    recipe = parse(calibrate={"schedule": "s.json"}, verify={"baseline": "/old/verify.json"})
    assert recipe.model == Path("/somewhere/m") and recipe.data.evaluation == Path("/somewhere/c")
    assert recipe.calibrate.schedule == Path("/somewhere/s.json")
    assert recipe.verify.baseline == Path("/old/verify.json")
    assert parse(calibrate={"schedule": "paper-1/3"}).calibrate.schedule == "paper-1/3"


def test_device_is_the_default_of_the_parts_that_have_one():
    recipe = parse(device="cuda")
    assert recipe.calibrate.search.device == "cuda" and recipe.engine.options == {"device": "cuda"}
    recipe = parse(device="cuda", calibrate={"search": {"device": "cpu"}}, build={"options": {"device": "cpu"}})
    assert recipe.calibrate.search.device == "cpu" and recipe.engine.options == {"device": "cpu"}
    assert parse(device="cuda", build={"target": "tensorrt"}).engine.options == {}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"verify": {"batch_size": 0}}, "verify.batch_size: must be at least 1, found 0"),
        ({"verify": {"batch_size": True}}, "verify.batch_size: expected an integer, found True"),
        ({"verify": {"gates": {"logits": 1}}}, "no gate 'logits' (known: logit_deviation"),
        ({"verify": {"gates": {"score_loss": "much"}}}, "gates.score_loss: expected a number"),
        ({"verify": {"metric": "bleu"}}, "verify.metric 'bleu' is not one of exact_match"),
        (
            {"calibrate": {"search": {"batchsize": 2}}},
            "calibrate.search.batchsize: unknown key; did you mean calibrate.search.batch_size?",
        ),
        (
            {"calibrate": {"search": {"batch_size": "two"}}},
            "calibrate.search.batch_size: expected an integer, found 'two'",
        ),
        ({"calibrate": {"search": {"rungs": [0.5]}}}, "calibrate.search.rungs: must ascend"),
        ({"export": "yes"}, "export: expected an object, found 'yes'"),
        ({"model": 3}, "model: expected a path, found 3"),
        ({"model": "a\0b"}, "NUL"),
        ({"device": "tpu"}, "device: 'tpu' is not one of cpu, cuda"),
        ({"report": {"overlays": 1000}}, "report.overlays: must be at most 64, found 1000"),
    ],
)
def test_wrong_values(sections, said):
    with pytest.raises(InputError) as caught:
        parse(**sections)
    line = str(caught.value)
    assert said in line and "\n" not in line


def test_a_given_schedule_needs_no_samples_to_search_with():
    data = {"data": {"evaluation": "c"}}
    recipe = parse(**data, calibrate={"schedule": "paper-1/9"})
    assert recipe.data.calibration is None
    with pytest.raises(InputError, match="data.calibration: missing .a search needs it"):
        parse(**data)


def test_search_settings_in_their_types():
    settings = parse(
        calibrate={
            "flops": "1e13",
            "search": {
                "rungs": ["1/2", 1],
                "cutoff_quantiles": [None, 0.3],
                "check_share": 1,
                "merge_orders": ["largest"],
            },
        }
    ).calibrate
    assert settings.flops == 1e13 and settings.search.merge_orders == ("largest",)
    assert settings.search.rungs == (0.5, 1.0) and settings.search.cutoff_quantiles == (None, 0.3)
    assert settings.search.check_share == 1.0


def test_settings_made_in_python_take_what_recipes_take():
    made = SearchSettings(budget="1/4", cost="cost.json", search={"rungs": ["1/2", 1], "dtype": "bf16"})
    assert made == SearchSettings(budget=0.25, cost=Path("cost.json"), search=made.search)
    assert made.search == CalibrationSettings(rungs=(0.5, 1.0), dtype="bfloat16")
    for wrong, said in (
        ({"budget": 2}, "^budget: expected a number above 0"),
        ({"workers": 0}, "^workers: must be"),
        ({"flops": 1.0, "budget": 0.5}, "one constraint"),
        ({"search": {"x": 1}}, "^search: unknown"),
    ):
        with pytest.raises(InputError, match=said):
            SearchSettings(**wrong)


def test_reference_has_every_key_with_its_meaning():
    lines = recipe_reference().splitlines()
    names = [line.split(":")[0].strip() for line in lines if line.strip()]
    assert names == [key.rsplit(".", 1)[-1] for key in all_keys()]
    assert all("# " in line and line.split("# ")[1].strip() not in ("", "None") for line in lines if line.strip())


def test_example_recipe_is_sound():
    recipe = load_recipe(EXAMPLE)
    assert recipe.calibrate.budget == 1 / 3 and recipe.model == EXAMPLE.parent / "model"
