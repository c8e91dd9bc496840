"""Density-peak clusters against the literal rules."""

import op_cases
import oracle
import pytest
import torch

from vitcop.plugins import ops
from vitcop.plugins.clusters.definition import quantile_rank
from vitcop.plugins.clusters.reference import squared_distances


def expect(features, positions, groups, num_centers, cutoff, radius):
    rows = zip(features.double().tolist(), positions.double().tolist(), groups.tolist(), strict=True)
    return [oracle.clusters(*row, num_centers, cutoff, radius) for row in rows]


@pytest.mark.parametrize("radius", [0.1, 0.3, 0.6, 2.0])
@pytest.mark.parametrize("cutoff", [1.0, 3.0, 8.0])
def test_follows_the_rule(radius, cutoff):
    for seed in range(12):
        num_tokens = 2 + 3 * seed
        tensors = op_cases.inputs("density_peak_clusters", 2, num_tokens, seed=seed, dim=4)
        for centers in ((18, 100), (1, 2), (1, 1000)):
            found = ops.density_peak_clusters(
                tensors[0],
                tensors[1],
                group_ids=tensors[2],
                centers=centers,
                cutoff_distance=cutoff,
                spatial_radius=radius,
            )
            num_centers = max(1, num_tokens * centers[0] // centers[1])
            assert found.tolist() == expect(*tensors, num_centers, cutoff, radius)


def test_no_groups_is_one_group():
    features, positions, groups = op_cases.inputs("density_peak_clusters", 2, 30)
    found = ops.density_peak_clusters(features, positions, centers=(1, 5), cutoff_distance=4.0)
    assert found.tolist() == expect(features, positions, torch.zeros_like(groups), 6, 4.0, 0.6)
    missing = torch.ops.vitcop.density_peak_clusters(features, positions, None, 1, 5, 4.0, 0.0, 0.6)
    assert torch.equal(found, missing)


def test_densities_that_underflow_fall_back_to_the_index():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 40, 1024, generator=generator)  # distances near 45, far above 1
    positions = torch.rand(2, 40, 2, generator=generator)
    found = ops.density_peak_clusters(features, positions, centers=(1, 4), cutoff_distance=1.0, spatial_radius=0.4)
    groups = torch.zeros(2, 40, dtype=torch.int64)
    assert found.tolist() == expect(features, positions, groups, 10, 1.0, 0.4)


@pytest.mark.parametrize("quantile", [0.000001, 0.02, 0.5, 1.0])
def test_quantile_is_the_nearest_rank_of_the_pairs(quantile):
    for num_tokens in (2, 5, 23):
        features, positions, groups = op_cases.inputs("density_peak_clusters", 1, num_tokens, dim=4)
        cutoff = oracle.quantile_distance(features[0].double().tolist(), quantile)
        squared = squared_distances(features).flatten().sort().values
        assert squared[quantile_rank(num_tokens, quantile)].sqrt() == pytest.approx(cutoff, rel=1e-5)
        found = ops.density_peak_clusters(
            features, positions, group_ids=groups, centers=(1, 3), cutoff_quantile=quantile
        )
        assert found.tolist() == expect(features, positions, groups, max(1, num_tokens // 3), cutoff, 0.6)


def test_equal_tokens():
    features = torch.ones(1, 6, 8)
    positions = torch.zeros(1, 6, 2)
    for quantile in (None, 0.5):
        found = ops.density_peak_clusters(features, positions, centers=(1, 2), cutoff_quantile=quantile)
        # The first is the peak (δ = ∞), all others have δ = 0: centres 0, 1, 2; the rest follow the lowest index.
        assert found.tolist() == [[0, 1, 2, 0, 0, 0]]


def test_labels_are_a_function_of_each_row():
    tensors = op_cases.inputs("density_peak_clusters", 4, 50)
    whole = op_cases.run_torch("density_peak_clusters", tensors, (18, 100, 5.0, 0.0, 0.6))[0]
    for row in range(4):
        alone = [t[row : row + 1] for t in tensors]
        assert torch.equal(
            op_cases.run_torch("density_peak_clusters", alone, (18, 100, 5.0, 0.0, 0.6))[0], whole[row : row + 1]
        )


def test_every_label_is_used_and_in_range():
    for seed in range(20):
        tensors = op_cases.inputs("density_peak_clusters", 3, 64, seed=seed)
        labels = op_cases.run_torch("density_peak_clusters", tensors, (18, 100, 5.0, 0.0, 0.6))[0]
        num_centers = 64 * 18 // 100
        assert all(sorted(set(row)) == list(range(num_centers)) for row in labels.tolist())


def test_a_large_common_offset_does_not_cancel():
    features, _positions, _ = op_cases.inputs("density_peak_clusters", 1, 32)
    plain = squared_distances(features.double().float())
    # fp32 keeps about 1e-4 of the features beside an offset of 1000; without centring the error would be near 1e-1.
    assert (squared_distances(features + 1000.0) - plain).abs().max() < 1e-2


def test_a_token_far_out_does_not_cost_the_others_their_digits():
    features = torch.randn(1, 60, 256, generator=torch.Generator().manual_seed(0))
    for place in (0, 30):
        with_outlier = features.clone()
        with_outlier[0, place] *= 100
        wide = with_outlier.double()
        exact = (wide.unsqueeze(2) - wide.unsqueeze(1)).square().sum(3)
        others = [i for i in range(60) if i != place]
        found = squared_distances(with_outlier)[0][others][:, others]
        torch.testing.assert_close(found, exact[0][others][:, others].float(), rtol=3e-6, atol=1e-6)


def test_long_chains_are_followed_to_the_end():
    # On a line with rising gaps each token hangs on its left neighbour: a chain of 200 links to the first.
    places = torch.cumsum(torch.linspace(1.0, 1.2, 200), dim=0)
    features = places.view(1, 200, 1)
    positions = torch.zeros(1, 200, 2)
    tensors = (features, positions, torch.zeros(1, 200, dtype=torch.int64))
    attributes = (1, 1000, 0.05, 0.0, 0.6)
    found = op_cases.run_torch("density_peak_clusters", tensors, attributes)
    assert found[0].tolist() == [[0] * 200]
    op_cases.assert_equal(found, op_cases.run_onnx("density_peak_clusters", tensors, attributes))
    two = op_cases.run_torch("density_peak_clusters", tensors, (2, 200, 0.05, 0.0, 0.6))[0]
    assert two.tolist() == expect(*tensors, 2, 0.05, 0.6)
