"""Cluster merge against the literal rules."""

import pytest
import torch
from against_oracle import merge as check
from hypothesis import given, settings
from hypothesis import strategies as st

from vitcop.plugins import ops
from vitcop.plugins.errors import InputError


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data(), merge=st.sampled_from(["sum", "mean"]))
def test_follows_the_rule(data, merge):
    num_visual = data.draw(st.integers(1, 24))
    num_clusters = data.draw(st.integers(1, num_visual))
    num_groups = data.draw(st.integers(1, num_visual))
    steps = data.draw(st.sampled_from([1, 4, 1000]))
    scores = [[data.draw(st.integers(0, steps)) / steps for _ in range(num_visual)] for _ in range(2)]
    labels = [[data.draw(st.integers(0, num_clusters - 1)) for _ in range(num_visual)] for _ in range(2)]
    num_positions = num_visual + data.draw(st.integers(0, 5))
    picks = [sorted(data.draw(st.permutations(range(num_positions)))[:num_visual]) for _ in range(2)]
    hidden = torch.randn(2, num_positions, 3, generator=torch.Generator().manual_seed(num_visual))
    check(torch.tensor(scores), torch.tensor(labels), torch.tensor(picks), hidden, num_clusters, num_groups, merge)


@pytest.mark.parametrize("num_groups", [1, 2, 10, 25, 49, 50, 51, 120, 287, 288])
def test_sizes_of_a_real_model(num_groups):
    generator = torch.Generator().manual_seed(num_groups)
    labels = (torch.rand(2, 288, generator=generator) ** 2 * 50).long()  # uneven clusters
    scores = torch.rand(2, 288, generator=generator) * 20
    index = torch.arange(5, 293).repeat(2, 1)
    check(scores, labels, index, torch.randn(2, 300, 2, generator=generator), (18, 100), num_groups, "sum")


def test_all_norms_equal():
    labels = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2, 2]])
    index = torch.arange(10).unsqueeze(0)
    for num_groups in range(1, 11):
        check(torch.full((1, 10), 0.1), labels, index, torch.randn(1, 10, 2), 3, num_groups, "sum")


def test_keeping_all_under_sum_doubles_one_token_of_each_cluster_and_under_mean_changes_nothing():
    hidden = torch.randn(1, 6, 4)
    index = torch.tensor([[1, 2, 4]])
    scores, labels = torch.tensor([[0.2, 0.1, 0.3]]), torch.tensor([[0, 0, 1]])
    doubled = check(scores, labels, index, hidden, 2, 3, "sum")[0]
    factors = torch.tensor([1, 2, 1, 1, 2, 1]).view(1, 6, 1)  # cluster 0 keeps its token of least norm, at position 2
    assert torch.equal(doubled, factors * hidden)
    same = check(scores, labels, index, hidden, 2, 3, "mean")[0]
    assert torch.equal(same, hidden)


def test_empty_labels_are_as_if_they_were_not_there():
    generator = torch.Generator().manual_seed(1)
    scores, index = torch.rand(1, 12, generator=generator), torch.arange(12).unsqueeze(0)
    dense = torch.randint(0, 4, (1, 12), generator=generator)
    for num_groups in (2, 6, 12):
        outputs = [
            ops.cluster_merge_plan(scores, labels, index, 12, num_clusters=12, keep=num_groups)
            for labels in (dense, dense * 3 + 1 - (dense == 3).long())
        ]
        assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hidden_states_keep_their_type(dtype):
    hidden = torch.randn(2, 12, 8).to(dtype)
    index = torch.arange(1, 11).repeat(2, 1)
    scores, labels = torch.rand(2, 10), torch.randint(0, 3, (2, 10))
    merged, _, new_index, _, assignment = ops.cluster_merge(
        hidden, index, scores, labels, num_clusters=3, keep=5, merge="mean"
    )
    assert merged.dtype == dtype
    exact = assignment @ hidden[:, 1:11].float()
    assert torch.equal(merged[torch.arange(2).unsqueeze(1), new_index], exact.to(dtype))


def test_scores_of_double_precision_count_as_fp32():
    scores = torch.tensor([[1.0 + 1e-12, 1.0, 2.0]], dtype=torch.float64)  # the first two tie
    index = torch.arange(3).unsqueeze(0)
    assignment = ops.cluster_merge_plan(scores, index, index, 3, num_clusters=3, keep=2, merge="mean")[3]
    assert assignment.tolist() == [[[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]]


def test_no_visual_tokens():
    hidden = torch.randn(2, 5, 3)
    empty = torch.zeros(2, 0, dtype=torch.int64)
    merged, kept_positions, new_index, kept_visual, assignment = ops.cluster_merge(
        hidden, empty, torch.zeros(2, 0), empty, num_clusters=(18, 100), keep=(1, 2)
    )
    assert torch.equal(merged, hidden)
    assert kept_positions.tolist() == [list(range(5))] * 2
    assert new_index.shape == kept_visual.shape == (2, 0)
    assert assignment.shape == (2, 0, 0)


def test_labels_out_of_range_are_refused():
    index = torch.arange(4).unsqueeze(0)
    for labels in ([[0, 1, 2, 3]], [[0, -1, 0, 0]]):
        with pytest.raises(InputError, match=r"labels must lie in 0\.\.1"):
            ops.cluster_merge_plan(torch.rand(1, 4), torch.tensor(labels), index, 4, num_clusters=2, keep=2)
