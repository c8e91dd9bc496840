"""The published rules as slow loops over plain Python numbers: what the fast forms are held against.

One row at a time, written from the description of the operations alone, without a look at how the fast forms do it.
"""

import math
import struct
from fractions import Fraction


def select(scores, visual_index, num_positions, num_kept, largest):
    """(kept_positions, visual_index, kept_visual) of one row."""
    sign = -1 if largest else 1
    ranking = sorted(range(len(scores)), key=lambda i: (sign * scores[i], i))
    kept_visual = sorted(ranking[:num_kept])
    return *positions_after(kept_visual, visual_index, num_positions), kept_visual


def positions_after(kept_visual, visual_index, num_positions):
    """(kept_positions, visual_index) of one row when of its visual tokens only `kept_visual` stay."""
    dropped = set(visual_index) - {visual_index[i] for i in kept_visual}
    kept_positions = [p for p in range(num_positions) if p not in dropped]
    place = {position: i for i, position in enumerate(kept_positions)}
    return kept_positions, [place[visual_index[i]] for i in kept_visual]


def knorm(keys, visual_index, mean_norm):
    """keys [Nkv][S][D] of one row."""
    scores = []
    for position in visual_index:
        heads = [head[position] for head in keys]
        if mean_norm:
            scores.append(sum(math.sqrt(sum(x * x for x in head)) for head in heads) / len(heads))
        else:
            mean_key = [sum(column) / len(heads) for column in zip(*heads, strict=True)]
            scores.append(math.sqrt(sum(x * x for x in mean_key)))
    return scores


def attention(query, keys, scale, allowed):
    """Softmax of one head's query over the allowed keys; 0 elsewhere."""
    logits = [sum(q * k for q, k in zip(query, key, strict=True)) * scale for key in keys]
    top = max(x for x, ok in zip(logits, allowed, strict=True) if ok)
    weights = [math.exp(x - top) if ok else 0.0 for x, ok in zip(logits, allowed, strict=True)]
    return [w / sum(weights) for w in weights]


def fp32(value):
    """A number as fp32 holds it: densities and scores are compared in fp32."""
    return struct.unpack("f", struct.pack("f", value))[0]


def distances(features):
    """[K][K]: between the tokens of one row."""
    return [[math.dist(a, b) for b in features] for a in features]


def densities(distance, cutoff):
    """[K]: correctly rounded sums, so that no order of summation is preferred."""
    return [math.fsum(math.exp(-((d / cutoff) ** 2)) for d in row) for row in distance]


def nearest_denser(i, distance, density, positions, groups, radius):
    """The nearest of the denser tokens that token i sees, or None. Of equal densities the lower index is denser."""
    candidates = [
        j
        for j in range(len(density))
        if (density[j] > density[i] or (density[j] == density[i] and j < i))
        and groups[j] == groups[i]
        and math.dist(positions[i], positions[j]) <= radius
    ]
    return min(candidates, key=lambda j: (distance[i][j], j), default=None)


def ranked_peaks(gap, density):
    """All tokens, the best centre first: ∞ by density, then by density times gap; equal ones by index."""

    def rank(i):
        return (0, -density[i], i) if gap[i] == math.inf else (1, -density[i] * gap[i], i)

    return sorted(range(len(gap)), key=rank)


def clusters(features, positions, groups, num_centers, cutoff, radius):
    """Density-peak labels of one row; `cutoff` is the distance d_c."""
    count = len(features)
    distance = distances(features)
    density = [fp32(value) for value in densities(distance, cutoff)]
    parent = [nearest_denser(i, distance, density, positions, groups, radius) for i in range(count)]
    gap = [math.inf if parent[i] is None else distance[i][parent[i]] for i in range(count)]
    centers = sorted(ranked_peaks(gap, density)[:num_centers])

    def label(i):
        while i not in centers and parent[i] is not None:
            i = parent[i]
        if i not in centers:
            i = min(centers, key=lambda c: (distance[i][c], c))
        return centers.index(i)

    return [label(i) for i in range(count)]


def quantile_distance(features, quantile):
    """The ⌈q·P⌉-th smallest (at least the first) of the P distances between different tokens.

    At least a millionth, so that duplicates count as near and nothing else.
    """
    pairs = sorted(math.dist(a, b) for i, a in enumerate(features) for b in features[:i])
    rank = max(1, math.ceil(Fraction(str(quantile)) * len(pairs)))
    return max([1e-6, *pairs[rank - 1 : rank]])


def quotas(sizes, norm_sums, places):
    """Shares of `places` in proportion to size-1; the clusters are in ascending order of label and not empty."""
    total = sum(size - 1 for size in sizes)
    if total == 0:
        return [0] * len(sizes)
    shares = [min(round(Fraction(places * (size - 1), total)), size - 1) for size in sizes]  # round: half to even
    ascending = sorted(range(len(sizes)), key=lambda c: (norm_sums[c], c))
    descending = sorted(range(len(sizes)), key=lambda c: (-norm_sums[c], c))
    while sum(shares) < places:
        for c in ascending:
            if sum(shares) < places and shares[c] < sizes[c] - 1:
                shares[c] += 1
    while sum(shares) > places:
        for c in descending:
            if sum(shares) > places and shares[c] > 0:
                shares[c] -= 1
    return shares


def merge_groups(scores, labels, num_groups):
    """The groups of tokens of one row, each an ascending list, in ascending order of their middle members.

    Returns (groups, is_merged [R]). Every cluster forms one merged group, of the tokens that its quota leaves (with too
    many clusters the last ones form one together); a token that its cluster keeps is a group of its own, not merged.
    """
    members = [[i for i, other in enumerate(labels) if other == label] for label in sorted(set(labels))]
    norm_sums = [sum(Fraction(scores[i]) for i in cluster) for cluster in members]
    kept, merged = [], []
    if len(members) <= num_groups:
        shares = quotas([len(cluster) for cluster in members], norm_sums, num_groups - len(members))
        for cluster, share in zip(members, shares, strict=True):
            by_norm = sorted(cluster, key=lambda i: (scores[i], i))
            kept += [[i] for i in by_norm[:share]]
            merged.append(sorted(by_norm[share:]))
    else:
        ascending = sorted(range(len(members)), key=lambda c: (norm_sums[c], c))
        merged = [members[c] for c in ascending[: num_groups - 1]]
        merged.append(sorted(i for c in ascending[num_groups - 1 :] for i in members[c]))
    groups = sorted(kept + merged, key=middle)
    return groups, [group in merged for group in groups]


def middle(group):
    """The ⌊n/2⌋-th (from 0) of the ascending members."""
    return group[len(group) // 2]


def weights(groups, is_merged, num_visual, mean):
    """[R][V], Fractions: what each output token is made of.

    A kept token stays h. A merged group becomes h_middle + mean(group), or mean(group) alone for `mean`.
    """
    lines = []
    for group, merged in zip(groups, is_merged, strict=True):
        line = [Fraction(i in group, len(group)) for i in range(num_visual)]
        if merged and not mean:
            line[middle(group)] += 1
        lines.append(line)
    return lines
