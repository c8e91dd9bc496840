"""Recipe values: what they become, and what is said of wrong ones."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitcop.pipeline.recipe import load_recipe, parse_recipe
from vitcop.pipeline.recipe_errors import all_keys
from vitcop.pipeline.recipe_reference import recipe_reference
from vitcop.pipeline.recipe_values import parse_budget
from vitcop.pipeline.search_settings import search_settings
from vitcop.plugins.errors import InputError

LEAST = {"model": "m", "data": {"calibration": "a", "selection": "b", "evaluation": "c"}}
EXAMPLE = Path(__file__).parents[2] / "examples" / "shapes_vqa" / "recipe.yaml"


def parse(**sections):
    return parse_recipe({**LEAST, **sections}, folder=Path("/somewhere"))


@pytest.mark.parametrize(
    ("value", "budget"), [("1/3", 1 / 3), ("2 / 9", 2 / 9), (0.25, 0.25), (1, 1.0), ("0.5", 0.5), ("1e-1", 0.1)]
)
def test_budget(value, budget):
    assert parse_budget(value.replace(" ", "") if isinstance(value, str) else value) == pytest.approx(budget)


@given(
    st.one_of(
        st.text(max_size=8), st.floats(), st.integers(), st.none(), st.booleans(), st.lists(st.integers(), max_size=2)
    )
)
def test_budget_is_in_its_range_or_refused(value):
    try:
        budget = parse_budget(value)
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
    assert recipe.search_settings == {"device": "cuda", "attn": "sdpa"} and recipe.target_options == {"device": "cuda"}
    recipe = parse(device="cuda", calibrate={"search": {"device": "cpu"}}, build={"options": {"device": "cpu"}})
    assert recipe.search_settings == {"device": "cpu", "attn": "sdpa"} and recipe.target_options == {"device": "cpu"}
    assert parse(device="cuda", build={"target": "tensorrt"}).target_options == {}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"verify": {"batch_size": 0}}, "`verify.batch_size`: input should be greater than or equal to 1, found 0"),
        ({"verify": {"batch_size": True}}, "`verify.batch_size`: input should be a valid integer, found True"),
        ({"verify": {"gates": {"logits": 1}}}, "no gate 'logits' (known: logit_deviation"),
        ({"verify": {"gates": {"score_loss": "much"}}}, "gates.score_loss: expected a number"),
        ({"verify": {"metric": "bleu"}}, "`verify.metric`: metric 'bleu' is not one of exact_match"),
        (
            {"calibrate": {"search": {"batchsize": 2}}},
            "`calibrate.search`: unknown setting 'batchsize'; did you mean 'batch_size'?",
        ),
        ({"calibrate": {"search": {"batch_size": "two"}}}, "batch_size: expected int, found 'two'"),
        ({"calibrate": {"search": {"rungs": [0.5]}}}, "rungs must ascend"),
        ({"export": "yes"}, "`export`: input should be a valid dictionary"),
        ({"model": 3}, "`model`: expected a path, found 3"),
        ({"model": "a\0b"}, "NUL"),
        ({"device": "tpu"}, "`device`: input should be 'cpu' or 'cuda', found 'tpu'"),
        ({"report": {"overlays": 1000}}, "`report.overlays`"),
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
    with pytest.raises(InputError, match="`data.calibration` is missing .a search needs it"):
        parse(**data)


def test_several_mistakes_are_counted():
    with pytest.raises(InputError, match=r"did you mean `verify.limit`\? \(and 1 more\)"):
        parse(verify={"limits": 3, "batch_size": -1})


def test_search_settings_in_their_types():
    settings = search_settings(
        {"rungs": ["1/2", 1], "cutoff_quantiles": [None, 0.3], "check_share": 1, "merge_orders": ["largest"]}
    )
    assert settings.rungs == (0.5, 1.0) and settings.cutoff_quantiles == (None, 0.3)
    assert settings.check_share == 1.0 and settings.merge_orders == ("largest",)
    assert search_settings(None) == search_settings({})


def test_reference_has_every_key_with_its_meaning():
    lines = recipe_reference().splitlines()
    names = [line.split(":")[0].strip() for line in lines if line.strip()]
    from vitcop.pipeline.recipe import Recipe

    assert names == [key.rsplit(".", 1)[-1] for key in all_keys(Recipe)]
    assert all("# " in line and line.split("# ")[1].strip() not in ("", "None") for line in lines if line.strip())


def test_example_recipe_is_sound():
    recipe = load_recipe(EXAMPLE)
    assert recipe.calibrate.budget == pytest.approx(1 / 3) and recipe.model == EXAMPLE.parent / "model"
