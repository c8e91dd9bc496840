"""The CUDA kernels of clusters and merges against the references, step by step where rounding may decide."""

import cluster_cases
import op_cases
import pytest
import torch
from kernel_forms import SEED

from vitcop.plugins import ops
from vitcop.plugins.clusters import reference
from vitcop.plugins.cuda import library

ATTRIBUTES = [*op_cases.ATTRIBUTES["density_peak_clusters"], (1, 4, 3.0, 0.5, 2.0)]


@pytest.fixture
def scratch(monkeypatch):
    """The workspaces that were handed out, the latest last."""
    handed_out = []
    workspace = library.workspace

    def remember(*arguments, device):
        handed_out.append(workspace(*arguments, device=device))
        return handed_out[-1]

    monkeypatch.setattr(library, "workspace", remember)
    return handed_out


def squared_and_density(workspace, batch, num_tokens):
    """What the workspace begins with: fp32 [B,K,K] and [B,K], each from a multiple of 256 bytes on."""
    pairs, tokens = batch * num_tokens**2, batch * num_tokens
    start = -(-4 * pairs // 256) * 64
    floats = workspace.cpu()[: 4 * (start + tokens)].view(torch.float32)
    return floats[:pairs].view(batch, num_tokens, num_tokens), floats[start:].view(batch, num_tokens)


def check_steps(kernels, scratch, tensors, attributes, seed=0):
    """As check_labels, of one run."""
    labels = kernels.run("density_peak_clusters", tensors, attributes, seed)[0]
    check_labels(labels, scratch[-1], tensors, attributes)


def check_labels(labels, workspace, tensors, attributes):
    """The distances and densities in a kernel's workspace are close, and its labels follow from them exactly."""
    features, positions, groups = tensors
    batch, num_tokens, _ = features.shape
    centers_num, centers_den, distance, quantile, radius = attributes
    squared, density = squared_and_density(workspace, batch, num_tokens)

    wide = features.double()
    exact = (wide.unsqueeze(2) - wide.unsqueeze(1)).square().sum(3)
    torch.testing.assert_close(squared, exact.float(), rtol=1e-5, atol=0)
    cutoffs = reference.squared_cutoffs(squared, distance, quantile)
    torch.testing.assert_close(density, reference.densities(squared, cutoffs), rtol=2e-6, atol=0)

    num_centers = min(num_tokens, max(1, num_tokens * centers_num // centers_den))
    gap, nearest = reference.nearest_denser(squared, density, reference.visible(positions, groups, radius))
    centers = reference.find_centers(density, gap, num_centers)
    assert torch.equal(labels, reference.labels_of(centers, squared, gap, nearest))


@pytest.mark.parametrize("attributes", ATTRIBUTES)
def test_every_step(kernels, scratch, attributes):
    for seed, (batch, num_tokens) in enumerate([(1, 1), (2, 2), (3, 31), (2, 33), (1, 64), (2, 150)], start=SEED):
        for dim in (3, 70):
            tensors = op_cases.inputs("density_peak_clusters", batch, num_tokens, seed=seed, dim=dim)
            check_steps(kernels, scratch, tensors, attributes, seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features(kernels, scratch, dtype):
    tensors = op_cases.inputs("density_peak_clusters", 2, 50, seed=SEED, dtype=dtype)
    check_steps(kernels, scratch, tensors, ATTRIBUTES[0])


def test_more_tokens_than_threads(kernels, scratch):
    tensors = op_cases.inputs("density_peak_clusters", 1, 1100, seed=SEED, dim=4)
    check_steps(kernels, scratch, tensors, ATTRIBUTES[0])


def test_a_long_chain_and_a_plateau(kernels, scratch):
    chain = torch.cumsum(torch.linspace(1.0, 1.2, 200), dim=0).view(1, 200, 1)
    plateau = torch.stack(torch.meshgrid(torch.arange(10.0), torch.arange(20.0), indexing="ij"), dim=-1)
    for features in (chain, plateau.view(1, 200, 2), torch.ones(1, 200, 5)):
        tensors = (features, torch.zeros(1, 200, 2), torch.zeros(1, 200, dtype=torch.int64))
        for attributes in ((1, 1000, 0.05, 0.0, 0.6), (2, 100, 1.0, 0.0, 0.6), (1, 2, 8.0, 0.3, 0.6)):
            check_steps(kernels, scratch, tensors, attributes)


@pytest.mark.parametrize("kind", cluster_cases.LATTICES, ids=lambda kind: kind.__name__)
def test_ties_on_a_lattice(kernels, scratch, kind):
    """Distances that tie, densities that tie, positions exactly at the radius."""
    for seed, num_tokens in enumerate((2, 9, 16, 36, 100), start=SEED):
        case = cluster_cases.draw((kind, cluster_cases.scattered), num_tokens, seed)
        attributes = (*case.centers, case.cutoff_distance, case.cutoff_quantile or 0.0, case.spatial_radius)
        check_steps(kernels, scratch, (case.features, case.positions, case.group_ids), attributes, seed)
        squared, density = squared_and_density(scratch[-1], 2, num_tokens)
        assert torch.equal(squared, reference.squared_distances(case.features))
        # Tokens whose distances are a permutation of each other have the same density.
        ordered = squared.sort(dim=2).values
        alike = (ordered.unsqueeze(1) == ordered.unsqueeze(2)).all(dim=3)
        assert (density.unsqueeze(1) == density.unsqueeze(2))[alike].all()


def test_no_groups(kernels):
    features, positions, groups = op_cases.inputs("density_peak_clusters", 2, 40, seed=SEED)
    without = kernels.run("density_peak_clusters", (features, positions, None), ATTRIBUTES[0])[0]
    with_one = kernels.run("density_peak_clusters", (features, positions, torch.zeros_like(groups)), ATTRIBUTES[0])[0]
    assert torch.equal(without, with_one)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_nobodys_neighbours(kernels, value):
    features, positions, groups = op_cases.inputs("density_peak_clusters", 1, 30, seed=SEED)
    for attributes in (*ATTRIBUTES, (1, 4, 3.0, 1.0, 2.0)):
        broken = features.clone()
        broken[0, 4, 1] = broken[0, 9, 0] = value
        num_centers = max(1, 30 * attributes[0] // attributes[1])
        labels = kernels.run("density_peak_clusters", (broken, positions, groups), attributes)[0]
        assert labels.min() == 0
        assert labels.max() == num_centers - 1
    all_broken = kernels.run("density_peak_clusters", (features * value, positions, groups), (1, 5, 1.0, 0.0, 0.6))[0]
    assert all_broken[0].tolist() == [*range(6), *[0] * 24]


def test_a_plan_for_scores_that_are_not_finite_and_labels_out_of_range(kernels):
    for seed in range(SEED, SEED + 10):
        scores, labels, index, sequence = op_cases.inputs("cluster_merge_plan", 2, 40, seed=seed)
        scores[:, ::3], scores[:, 1::5], scores[:, 2::7] = float("nan"), float("inf"), -float("inf")
        labels[:, 0], labels[:, 1] = -5, 1000
        for attributes in op_cases.ATTRIBUTES["cluster_merge_plan"]:
            kept_positions, new_index, kept, assignment = kernels.run(
                "cluster_merge_plan", (scores, labels, index, sequence), attributes, seed
            )
            members = assignment > 0
            assert torch.equal(members.sum(1), torch.ones(2, 40, dtype=torch.int64))  # each token in one group
            assert torch.equal(
                members.gather(2, kept.unsqueeze(2)), torch.ones_like(kept, dtype=torch.bool).unsqueeze(2)
            )
            assert (kept.diff(dim=1) > 0).all()
            assert torch.equal(kept_positions.gather(1, new_index), index.gather(1, kept))


def test_cluster_sums_are_exact(kernels):
    """In fp32 2^24 + 1 + 1 would be 2^24: the sums of the first two clusters would not tie."""
    scores = torch.tensor([[2.0**24, 1.0, 1.0, 2.0**24, 2.0, 0.0, 5.0, 6.0, 7.0]])
    labels, index = torch.arange(3).repeat_interleave(3).unsqueeze(0), torch.arange(9).unsqueeze(0)
    for order in ([0, 1, 2, 3, 4, 5, 6, 7, 8], [3, 4, 5, 0, 1, 2, 6, 7, 8]):
        for num_groups in range(1, 10):
            tensors, attributes = (scores[:, order], labels, index, scores), (3, 9, num_groups, 9, 0)
            op_cases.assert_equal(
                op_cases.run_torch("cluster_merge_plan", tensors, attributes),
                kernels.run("cluster_merge_plan", tensors, attributes),
            )


def test_the_whole_of_stage_two(kernels):
    """Norms, clusters, plan: as `ops` does it on the CPU, from features whose distances are exact."""
    generator = torch.Generator().manual_seed(SEED)
    features = torch.randint(-3, 4, (2, 64, 4), generator=generator).float()
    positions = torch.rand(2, 64, 2, generator=generator)
    keys, index = op_cases.inputs("knorm_scores", 2, 64, seed=SEED)
    groups = torch.zeros(2, 64, dtype=torch.int64)
    labels = kernels.run("density_peak_clusters", (features, positions, groups), (18, 100, 2.0, 0.0, 0.6))[0]
    assert torch.equal(labels, ops.density_peak_clusters(features, positions, centers=(18, 100), cutoff_distance=2.0))
    scores = kernels.run("knorm_scores", (keys, index), (0,))[0]
    plan = kernels.run("cluster_merge_plan", (scores, labels, index, keys[:, 0]), (18, 100, 1, 2, 0))
    expected = ops.cluster_merge_plan(scores, labels, index, keys[:, 0], num_clusters=(18, 100), keep=(1, 2))
    op_cases.assert_equal(list(expected), plan)
