"""Attention implementations: the masks that each is given say the same, and what cannot run is refused by name."""

import importlib.util

import pytest
import torch

from vitcop.calibrate.models import loading
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.run.attention_masks import causal_mask
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.plugins.errors import InputError, MissingError

REAL = torch.tensor([[False, False, True, True, True], [True] * 5])


@pytest.mark.parametrize("num_queries", [5, 2, 1])
def test_masks_say_the_same(num_queries):
    sdpa = causal_mask(REAL, num_queries, "sdpa", torch.float32)
    eager = causal_mask(REAL, num_queries, "eager", torch.float32)
    assert torch.equal(eager == 0, sdpa) and sdpa.shape == (2, 1, num_queries, 5)
    # FlashAttention gets the padding alone and is causal by itself, aligned to the last place.
    padding = causal_mask(REAL, num_queries, "flash_attention_2", torch.float32).bool()
    causal = torch.ones(5, 5, dtype=torch.bool).tril()[-num_queries:]
    real_queries = REAL[:, -num_queries:]
    expected = (padding[:, None] & causal)[real_queries]
    assert torch.equal(sdpa[:, 0][real_queries], expected)


def test_no_padding_is_no_mask_for_flash_attention():
    assert causal_mask(REAL[1:], 3, "flash_attention_2", torch.float16) is None


def test_padded_rows_see_themselves():
    assert causal_mask(REAL, 5, "sdpa", torch.float32)[0, 0, 0].tolist() == [True, False, False, False, False]


def test_a_window_reaches_back_in_places_not_in_tokens():
    # Places 2 to 5 of the second prompt were dropped.
    places = torch.tensor([[0, 0, 0, 1, 2], [0, 1, 6, 7, 8]])
    mask = causal_mask(REAL, 5, "sdpa", torch.float32, window=3, places_BK=places)[:, 0]
    assert mask[0, 4].tolist() == [False, False, True, True, True]
    assert mask[1].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    last = causal_mask(REAL, 1, "sdpa", torch.float32, window=3, places_BK=places)[:, 0]
    assert torch.equal(last, mask[:, -1:])


@pytest.fixture
def windowed(tiny, monkeypatch):
    """The tiny model, whose family says that its first layer has a sliding window."""
    monkeypatch.setattr(type(tiny.family), "sliding_layers", frozenset({0}))
    monkeypatch.setattr(tiny.family.config.text_config, "sliding_window", 8, raising=False)
    return tiny


def test_flash_attention_does_not_meet_windows(windowed, monkeypatch):
    model, family = windowed.model, windowed.family
    monkeypatch.setattr(family.language_model(model).config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(InputError, match="sliding windows \\(8 tokens\\) cannot be used with --attn flash_attention_2"):
        ScheduledRunner(model, family, Schedule(num_layers=family.num_layers))


@pytest.mark.parametrize(
    ("installed", "device", "dtype", "kind", "said"),
    [
        (False, "cuda", "float16", MissingError, r"needs flash-attn: pip install 'vitcop\[flash-attn\]'"),
        (True, "cpu", "float16", MissingError, "CUDA devices alone, not on cpu"),
        (True, "cuda", "float32", InputError, "float16 or bfloat16, not in torch.float32"),
    ],
)
def test_flash_attention_is_refused_where_it_cannot_run(monkeypatch, installed, device, dtype, kind, said):
    monkeypatch.setattr(loading, "find_spec", lambda name: object() if installed else None)
    with pytest.raises(kind, match=said):
        loading.check_attention("flash_attention_2", torch.device(device), getattr(torch, dtype))


def test_unknown_attention(tiny):
    with pytest.raises(InputError, match="attention 'ring' is not known; use eager, sdpa, flash_attention_2"):
        load_model(tiny.checkpoint, attn="ring")


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.gpu
def test_flash_attention_gives_the_logits_of_sdpa(tiny, batch):
    from vitcop.calibrate.run.scheduled import ScheduledRunner
    from vitcop.calibrate.schedule.schedule import Drop, Schedule

    schedule = Schedule(num_layers=4, drops=(Drop(layer=2, score="text_query", order="largest", keep=(1, 2)),))
    logits = []
    for attn in ("sdpa", "flash_attention_2"):
        model, _, family = load_model(tiny.checkpoint, device="cuda", dtype="float16", attn=attn)
        logits.append(torch.tensor(ScheduledRunner(model, family, schedule).prefill(batch).logits))
    torch.testing.assert_close(*logits, atol=2e-2, rtol=2e-2)
