"""Which samples are not independent of each other, since they ask about the same picture."""

from collections.abc import Hashable, Sequence

from vitcop.calibrate.data.samples import Sample


def image_clusters(samples: Sequence[Sample]) -> list[int]:
    """The cluster of each sample, numbered in order of first appearance.

    Samples that share a picture (an image or a whole video, by its bytes) are one cluster, and so are those that a
    chain of shared pictures connects. A sample of text alone is a cluster of its own.
    """
    return linked([pictures_of(sample) for sample in samples])


def linked(pictures: Sequence[Sequence[Hashable]]) -> list[int]:
    """`image_clusters` from the pictures of each sample, by whatever names."""
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    nodes = [("sample", place) for place in range(len(pictures))]
    for node, names in zip(nodes, pictures, strict=True):
        for picture in names:
            parent[root(("picture", picture))] = root(node)
    number: dict[Hashable, int] = {}
    return [number.setdefault(root(node), len(number)) for node in nodes]


def clusters_by_id(samples: Sequence[Sample]) -> dict[str, int]:
    """`image_clusters` by sample id, as `Losses.estimates` and `vitcop.calibrate.stats.verdict` take them."""
    return dict(zip((sample.id for sample in samples), image_clusters(samples), strict=True))


def pictures_of(sample: Sample) -> tuple[str, ...]:
    """What tells its pictures apart: their bytes, or their paths where nothing has read them."""
    if sample.picture_digests:
        return sample.picture_digests
    files = (*sample.images, *([] if sample.video is None else [sample.video]))
    return tuple(str(file) for file in files)
