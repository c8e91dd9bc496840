"""Density-peak clusters against the literal rules on random rows: index for index, ties included."""

import against_oracle
import cluster_cases
import near_ties
import pytest
import torch

NARROW_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("kind", cluster_cases.LATTICES, ids=lambda kind: kind.__name__)
def test_small_lattices(kind):
    for seed in range(30):
        num_tokens = (1, 2, 3, 4, 5, 8, 12, 16, 25, 36)[seed % 10]
        case = cluster_cases.draw((kind, kind), num_tokens, seed)
        assert not against_oracle.clusters(case, exact=True, dtype=NARROW_TYPES[seed % 3])


@pytest.mark.parametrize("kind", (*cluster_cases.LATTICES, cluster_cases.fine_blobs), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("num_tokens", [100, 256, 400, 600])
def test_large_lattices(kind, num_tokens):
    assert not against_oracle.clusters(cluster_cases.draw((kind,), num_tokens, num_tokens + 1), exact=True)


@pytest.mark.parametrize("odd", [cluster_cases.equal, cluster_cases.duplicates], ids=lambda kind: kind.__name__)
def test_one_row_unlike_the_others(odd):
    for seed in range(20):
        kinds = [cluster_cases.scattered] * 3
        kinds.insert(seed % 4, odd)
        case = cluster_cases.draw(kinds, 4 + seed, seed)
        assert not against_oracle.clusters(case, exact=True)


def test_continuous_rows():
    num_near_ties = 0
    for seed in range(200):
        kind = (cluster_cases.normal, cluster_cases.blobs)[seed % 2]
        case = cluster_cases.draw((kind,), 1 + seed % 40, seed)
        num_near_ties += against_oracle.clusters(case, exact=False)
    assert num_near_ties < 0.01 * 200


def gaps_on_a_line(*places):
    """`near_ties.clusters` of tokens on a line, for 2 centres and d_c = 4: with numbers of fp32, and exact ones."""
    features = [[place] + [0.0] * 7 for place in places]
    arguments = (features, [[0.0, 0.0]] * len(places), [0] * len(places), 2, 4.0, 1.0)
    return [near_ties.clusters(*arguments, exact=exact) for exact in (False, True)]


def test_near_ties_are_seen():
    # The middle token is the peak. Which of its neighbours is the other centre is a matter of their distances to it.
    assert min(gaps_on_a_line(0.0, 1.0, 2.0)) > 1  # mirror images: they tie in every form
    assert max(gaps_on_a_line(0.0, 1.0, 2.0 + 1e-7)) < 1
    assert gaps_on_a_line(0.0, 1.0, 2.0 + 1e-5)[0] < 1 < gaps_on_a_line(0.0, 1.0, 2.0 + 1e-5)[1]
    assert min(gaps_on_a_line(0.0, 1.0, 2.0 + 1e-3)) > 1
    assert near_ties.select([1.0, 2.0, 2.0 + 1e-7, 3.0], 2, largest=False) < 1
    assert near_ties.select([1.0, 2.0, 2.0 + 1e-7, 3.0], 1, largest=False) > 1
    assert near_ties.merge([1.0, 2.0, 3.0 + 1e-7], [0, 0, 1]) < 1
    assert near_ties.merge([1.0, 2.0, 3.0], [0, 0, 1]) > 1
