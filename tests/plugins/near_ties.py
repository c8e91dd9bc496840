"""How near the rules' decisions about one row come to a tie that fp32 may decide the other way.

Each function goes through the decisions that bear on the outcome and returns the least of their gaps, taken in fp64, as
a multiple of the error that fp32 may make there: below 1 is a near tie. Exact ties are no gaps: equal numbers tie in
every form.
"""

import itertools
import math

import oracle

ROUNDING = 2.0**-24
"""The largest relative error of one rounding to fp32."""

EXACT_ROUNDINGS = 8
"""From an exact squared distance to a density times a distance: square, division, exp (two), sum, root, product."""

ROUNDINGS = 50
"""More than there are in a squared distance: 16 in each dot product of 8 features, though never all to one side."""


def least_gap(gaps):
    """The least that is not an exact tie."""
    return min((gap for gap in gaps if gap > 0), default=math.inf)


def clusters(features, positions, groups, num_centers, cutoff, radius, *, exact):
    """Of `oracle.clusters`, same arguments. `exact`: the squared distances are small integers, free of rounding."""
    count = len(features)
    distance = oracle.distances(features)
    exact_density = oracle.densities(distance, cutoff)
    density = [oracle.fp32(value) for value in exact_density]
    parent = [oracle.nearest_denser(i, distance, density, positions, groups, radius) for i in range(count)]
    gap = [math.inf if parent[i] is None else distance[i][parent[i]] for i in range(count)]
    error = (EXACT_ROUNDINGS if exact else ROUNDINGS) * ROUNDING
    # A squared distance is a difference of squared norms: its error is a share of the largest of them, and counts in
    # a density as often as the squared cutoff goes into it, with the weight of its term. A token's own term is 1.
    scale = 0.0 if exact else max(d for row in distance for d in row) ** 2
    spread = 1 + scale / cutoff**2

    def between_distances(a, b):
        return 0.0 if a == b else abs(a * a - b * b) / (scale * error) if scale else math.inf

    def between_densities(i, j):
        larger = max(exact_density[i], exact_density[j])
        return abs(exact_density[i] - exact_density[j]) / ((larger - 1) * spread * error + larger * ROUNDING)

    def between_peaks(i, j):
        if gap[i] == gap[j]:
            return 0.0 if gap[i] == 0 else between_densities(i, j)
        if math.inf in (gap[i], gap[j]):
            return math.inf
        one, other, larger = density[i] * gap[i], density[j] * gap[j], max(density[i], density[j])
        return abs(one**2 - other**2) / ((2 * max(one, other) ** 2 + larger**2 * scale * spread) * error)

    def of_parent(i, j):
        """The gaps that decide whether j is the parent of i; none where another is nearer beyond doubt."""
        by_distance = between_distances(distance[i][j], gap[i])
        if i == j or groups[i] != groups[j] or (distance[i][j] > gap[i] and by_distance >= 1):
            return []
        step = math.dist(positions[i], positions[j])
        by_reach = abs(step - radius) / ((radius + ROUNDING) * error)
        by_density = between_densities(i, j)
        in_reach, denser = step <= radius, (density[j], -j) > (density[i], -i)
        return (
            ([by_distance] if in_reach and denser else [])
            + ([by_density] if in_reach or by_reach < 1 else [])
            + ([by_reach] if denser or by_density < 1 else [])
        )

    gaps = [value for i in range(count) for j in range(count) for value in of_parent(i, j)]
    ranking = oracle.ranked_peaks(gap, density)
    centers, others = ranking[:num_centers], ranking[num_centers:]
    gaps += [between_peaks(centers[-1], i) for i in others]
    for i in others:
        if parent[i] is None:
            nearest = min(distance[i][c] for c in centers)
            gaps += [between_distances(distance[i][c], nearest) for c in centers]
    return least_gap(gaps)


def between(a, b):
    """Of comparing two positive numbers, each of them off by a share of itself."""
    return abs(a - b) / (max(a, b) * ROUNDINGS * ROUNDING) if a != b else 0.0


def select(scores, num_kept, largest):
    """Of `oracle.select`: the last score that is kept against all that are not."""
    ranking = sorted(scores, reverse=largest)
    return least_gap(between(ranking[num_kept - 1], score) for score in ranking[num_kept:])


def order(values):
    return least_gap(between(a, b) for a, b in itertools.pairwise(sorted(values)))


def merge(scores, labels):
    """Of `oracle.merge_groups`: the order of the scores and that of the clusters' sums."""
    sums = [math.fsum(s for s, other in zip(scores, labels, strict=True) if other == label) for label in set(labels)]
    return min(order(scores), order(sums))
