"""Cluster merge, alone and at the end of the chain of stage II, against the literal rules on random rows."""

import against_oracle
import cluster_cases
import op_cases
import pytest
import torch

SIZES = (1, 2, 3, 5, 8, 13, 21, 34, 55, 300)

LABELS = {
    "random": lambda count, generator: torch.randint(0, max(1, count // 4), (2, count), generator=generator),
    "uneven": lambda count, generator: (torch.rand(2, count, generator=generator) ** 3 * max(1, count // 3)).long(),
    "singletons": lambda count, generator: torch.stack([torch.arange(count), torch.arange(count).flip(0)]),
    "pairs_and_singletons": lambda count, generator: torch.arange(count).repeat(2, 1) * 2 // 3,
    "one": lambda count, generator: torch.zeros(2, count, dtype=torch.int64),
    "one_row_of_one": lambda count, generator: torch.stack([torch.zeros(count), torch.arange(count) // 2]).long(),
}


def scores_of(seed, shape, generator):
    """Continuous, on a lattice with many equal sums, and all equal."""
    kind = seed % 3
    if kind == 0:
        return torch.randn(shape, generator=generator).abs()
    return torch.randint(0, 4, shape, generator=generator) / 4 if kind == 1 else torch.full(shape, 0.1)


@pytest.mark.parametrize("merge", ["sum", "mean"])
@pytest.mark.parametrize("kind", LABELS)
def test_cluster_merge(kind, merge):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        num_visual = SIZES[seed % 10]
        num_positions = num_visual + seed % 5
        labels = LABELS[kind](num_visual, generator)
        num_clusters = int(labels.max()) + 1
        # R = 1, R = V, around C on both sides, and between.
        counts = (1, num_visual, num_clusters - 1, num_clusters, num_clusters + 1, (num_clusters + num_visual) // 2)
        for num_groups in sorted({min(max(count, 1), num_visual) for count in counts}):
            against_oracle.merge(
                scores_of(seed, (2, num_visual), generator),
                labels,
                op_cases.visual_index(2, num_positions, num_visual, generator),
                torch.randn(2, num_positions, 2, generator=generator),
                num_clusters,
                num_groups,
                merge,
            )


def chain_inputs(kinds, num_tokens, seed, whole_numbers):
    generator = torch.Generator().manual_seed(seed)
    num_heads, num_positions = 1 + seed % 3, num_tokens + seed % 7
    shape = (len(kinds), num_heads, num_positions, 8)
    keys = torch.randn(shape, generator=generator)
    if whole_numbers:
        keys = num_heads * torch.randint(-2, 3, shape, generator=generator).float()
    return (
        cluster_cases.draw(kinds, num_tokens, seed),
        keys,
        op_cases.visual_index(len(kinds), num_positions, num_tokens, generator),
        torch.randn(len(kinds), num_positions, 2, generator=generator),
        (1, num_tokens, max(1, num_tokens // 5), max(1, num_tokens // 2), max(1, num_tokens - 1))[seed % 5],
    )


@pytest.mark.parametrize("merge", ["sum", "mean"])
@pytest.mark.parametrize("kind", cluster_cases.LATTICES, ids=lambda kind: kind.__name__)
def test_chain_on_lattices(kind, merge):
    for seed in range(12):
        inputs = chain_inputs((kind, cluster_cases.equal), 1 + 3 * seed, seed, whole_numbers=True)
        assert not against_oracle.chain(*inputs, merge, exact=True)


@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_chain_on_continuous_rows(merge):
    num_near_ties = 0
    for seed in range(100):
        kind = (cluster_cases.normal, cluster_cases.blobs)[seed % 2]
        inputs = chain_inputs((kind,), 1 + seed % 40, seed, whole_numbers=False)
        num_near_ties += against_oracle.chain(*inputs, merge, exact=False)
    assert num_near_ties < 0.01 * 100


def test_chain_at_the_size_of_a_model():
    inputs = chain_inputs((cluster_cases.fine_blobs,), 576, 3, whole_numbers=True)
    assert not against_oracle.chain(*inputs, "sum", exact=True)
