"""The public functions held against the loops of `oracle`, row by row and index by index.

Where fp32 could decide otherwise (`near_ties`), a function that takes random numbers returns True and asserts nothing.
"""

import near_ties
import oracle
import torch

from vitcop.plugins import ops


def cluster_labels(case, dtype=torch.float32):
    """int64 [B,K] of a `ClusterCase`."""
    return ops.density_peak_clusters(
        case.features.to(dtype),
        case.positions,
        centers=case.centers,
        cutoff_distance=case.cutoff_distance,
        cutoff_quantile=case.cutoff_quantile,
        spatial_radius=case.spatial_radius,
        group_ids=case.group_ids,
    )


def arguments_of_row(case, row):
    """What `oracle.clusters` takes."""
    num_tokens = case.features.shape[1]
    num, den = case.centers
    features = case.features[row].double().tolist()
    quantile = case.cutoff_quantile
    return (
        features,
        case.positions[row].double().tolist(),
        case.group_ids[row].tolist(),
        min(num_tokens, max(1, num_tokens * num // den)),
        case.cutoff_distance if quantile is None else oracle.quantile_distance(features, quantile),
        case.spatial_radius,
    )


def clusters(case, *, exact, dtype=torch.float32):
    """`density_peak_clusters`. `exact`: on a lattice, where only densities are rounded."""
    rows = [arguments_of_row(case, row) for row in range(len(case.features))]
    if any(near_ties.clusters(*row, exact=exact) < 1 for row in rows):
        return True
    assert cluster_labels(case, dtype).tolist() == [oracle.clusters(*row) for row in rows]
    return False


def assert_selected(found, scores, visual_index, num_positions, num_kept, order):
    """The outputs of a selecting op, given the numbers that it selects by, a list for each row."""
    for row, values in enumerate(scores):
        expected = oracle.select(values, visual_index[row].tolist(), num_positions, num_kept, order == "largest")
        assert [output[row].tolist() for output in found] == list(expected)


def assert_merged(outputs, row, groups, is_merged, visual_index, hidden, merge):
    """The outputs of `cluster_merge` for one row, given its groups and which of them are merged."""
    merged, kept_positions, new_index, kept_visual, assignment = (output[row] for output in outputs)
    middles = [oracle.middle(group) for group in groups]
    expected = oracle.positions_after(middles, visual_index[row].tolist(), hidden.shape[1])
    assert (kept_positions.tolist(), new_index.tolist(), kept_visual.tolist()) == (*expected, middles)
    weights = torch.tensor(
        [[float(w) for w in line] for line in oracle.weights(groups, is_merged, visual_index.shape[1], merge == "mean")]
    )
    torch.testing.assert_close(assignment, weights, rtol=2.0**-22, atol=0)
    literal = weights.double() @ hidden[row][visual_index[row]].double()
    torch.testing.assert_close(merged[new_index], literal.float())
    is_text = torch.ones(len(kept_positions), dtype=torch.bool).index_fill(0, new_index, False)
    assert torch.equal(merged[is_text], hidden[row][kept_positions[is_text]])


def merge(scores, labels, visual_index, hidden, num_clusters, num_groups, merge):
    """`cluster_merge`, whose outputs are returned. Scores are compared as they are: nothing is rounded."""
    outputs = ops.cluster_merge(
        hidden, visual_index, scores, labels, num_clusters=num_clusters, keep=num_groups, merge=merge
    )
    for row in range(len(scores)):
        groups, is_merged = oracle.merge_groups(scores[row].tolist(), labels[row].tolist(), num_groups)
        assert len(groups) == num_groups
        assert_merged(outputs, row, groups, is_merged, visual_index, hidden, merge)
    return outputs


def chain(case, keys, visual_index, hidden, num_groups, merge, *, exact):
    """Clusters, key norms and the merge by both, from end to end. `exact`: features and keys are on lattices."""
    labels = cluster_labels(case)
    outputs = ops.cluster_merge(
        hidden,
        visual_index,
        ops.knorm_scores(keys, visual_index),
        labels,
        num_clusters=case.centers,
        keep=num_groups,
        merge=merge,
    )
    groups = []
    for row in range(len(keys)):
        arguments = arguments_of_row(case, row)
        row_labels = oracle.clusters(*arguments)
        norms = oracle.knorm(keys[row].tolist(), visual_index[row].tolist(), mean_norm=False)
        if near_ties.clusters(*arguments, exact=exact) < 1 or (not exact and near_ties.merge(norms, row_labels) < 1):
            return True
        groups.append(oracle.merge_groups([oracle.fp32(norm) for norm in norms], row_labels, num_groups))
    for row in range(len(keys)):
        assert_merged(outputs, row, *groups[row], visual_index, hidden, merge)
    return False
