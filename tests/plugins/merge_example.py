"""A merge worked out by hand, which every form of the op must give.

Labels [0,0,0,1], scores [1,3,2,5], two clusters, three groups: the quotas are [1,0]. Token 0, of the lowest norm in its
cluster, stays h0. Tokens 1 and 2 are the merged group of cluster 0 and become h2 + (h1 + h2) / 2 at position 2. Cluster
1 keeps nothing: its only token is a merged group of one and becomes 2 h3.
"""

import torch

LABELS = torch.tensor([[0, 0, 0, 1]])
SCORES = torch.tensor([[1.0, 3.0, 2.0, 5.0]])
VISUAL_INDEX = torch.tensor([[2, 3, 5, 6]])
HIDDEN = torch.tensor([[[7.0], [11.0], [1.0], [20.0], [13.0], [300.0], [4000.0], [17.0]]])

KEPT_VISUAL = [[0, 2, 3]]
KEPT_POSITIONS = [[0, 1, 2, 4, 5, 6, 7]]
NEW_VISUAL_INDEX = [[2, 4, 5]]
ASSIGNMENT = {
    "sum": [[[1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 1.5, 0.0], [0.0, 0.0, 0.0, 2.0]]],
    "mean": [[[1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]]],
}
MERGED = {
    "sum": [[[7.0], [11.0], [1.0], [13.0], [460.0], [8000.0], [17.0]]],
    "mean": [[[7.0], [11.0], [1.0], [13.0], [160.0], [4000.0], [17.0]]],
}


def inputs(merge):
    """(tensors, attributes) of ClusterMergePlan."""
    return (SCORES, LABELS, VISUAL_INDEX, HIDDEN), (2, 4, 3, 4, int(merge == "mean"))


def check(outputs, merge):
    """The four outputs of ClusterMergePlan, as arrays or tensors: all of them are exact."""
    found = [output.tolist() for output in outputs]
    assert found == [KEPT_POSITIONS, NEW_VISUAL_INDEX, KEPT_VISUAL, ASSIGNMENT[merge]]
