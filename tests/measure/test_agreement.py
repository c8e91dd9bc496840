"""Agreement of logits, prefixes and kept tokens; deviation of caches; the near-tie rule."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vitcop.calibrate.run.clustering import Clustering
from vitcop.calibrate.run.runner import DropTrace, Prefill
from vitcop.calibrate.schedule.schedule import Clusters
from vitcop.export.measure.agreement import common_prefix, kept_agreement, logit_kl, max_deviation, top1_agreement
from vitcop.export.measure.layers import layer_deviations
from vitcop.export.measure.near_ties import compare_stages, compare_traces, is_near_tie, ulp_at

F = np.float32


def test_kl_of_known_distributions():
    reference, other = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    expected = 0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)
    np.testing.assert_allclose(logit_kl(reference, other), [expected, 0.0], atol=1e-12)
    np.testing.assert_allclose(logit_kl(reference + 5, other - 7), [expected, 0.0], atol=1e-12)


def test_top1_and_deviation():
    a, b = np.array([[1.0, 2.0, 2.0], [3.0, 0.0, 0.0]]), np.array([[1.0, 2.5, 2.0], [0.0, 0.0, 1.0]])
    assert top1_agreement(a, b).tolist() == [True, False]
    assert max_deviation(a, b) == 3.0
    assert max_deviation(a, b * np.nan) == float("inf")
    assert max_deviation(a[:0], b[:0]) == 0.0


@pytest.mark.parametrize(
    ("a", "b", "length"), [([], [1], 0), ([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([2], [1], 0)]
)
def test_common_prefix(a, b, length):
    assert common_prefix(a, b) == common_prefix(b, a) == length


def test_kept_agreement():
    assert kept_agreement(np.array([0, 1, 2, 3]), np.array([0, 1, 7, 9])) == 0.5
    assert kept_agreement(np.array([], dtype=int), np.array([], dtype=int)) == 1.0


class TestNearTies:
    ULP = np.spacing(F(5.0))

    def test_sixteen_ulp_is_the_edge(self):
        assert is_near_tie(np.array([F(5.0)]), np.array([F(5.0) + 15 * self.ULP]))
        assert not is_near_tie(np.array([F(5.0)]), np.array([F(5.0) + 16 * self.ULP]))

    def test_the_edge_grows_with_the_scores(self):
        small, large = np.array([F(1e-3)]), np.array([F(1e3)])
        gap = F(1e-4)
        assert not is_near_tie(small, small + gap)
        assert is_near_tie(large, large + gap)

    def test_every_swapped_pair_has_to_be_close(self):
        near = F(5.0) + 2 * self.ULP
        assert is_near_tie(np.array([F(5.0), near]), np.array([near, F(5.0)]))
        assert not is_near_tie(np.array([F(5.0), F(9.0)]), np.array([near, F(9.0)]))

    def test_nothing_and_nan_are_no_tie(self):
        assert not is_near_tie(np.array([]), np.array([]))
        assert not is_near_tie(np.array([F("nan")]), np.array([F(1.0)]))

    def test_ulp_of_each_float_type(self):
        for value in (0.0, 1e-40, 3e-6, 0.7, 1.0, 5.0, 6e4):
            assert ulp_at(value, "float32") == np.spacing(np.float32(value))
            assert ulp_at(value, "float16") == np.spacing(np.float16(value))
        assert ulp_at(1.0, "bfloat16") == 2.0**-7

    def test_a_near_tie_is_told_by_the_computing_float_type(self):
        ulp = np.spacing(np.float16(5))
        near, far = np.array([F(5.0) + 15 * F(ulp)]), np.array([F(5.0) + 16 * F(ulp)])
        five = np.array([F(5.0)])
        assert is_near_tie(five, near, "float16") and not is_near_tie(five, far, "float16")
        assert not is_near_tie(five, near, "float32") and is_near_tie(five, far, "bfloat16")
        ours = self.trace([0, 1], [1.0, 5.0, near[0], 9.0])
        assert compare_traces(ours, self.trace([0, 2]), 0, "float16") == "near_tie"
        assert compare_traces(ours, self.trace([0, 2]), 0) == "different"

    def trace(self, kept, scores=None, assignment=None):
        return DropTrace(
            kept_visual=np.array([kept]),
            scores=None if scores is None else np.array([scores], dtype=F),
            assignment=None if assignment is None else np.array([assignment], dtype=F),
        )

    def test_a_select(self):
        scores = [1.0, 5.0, 5.0 + 3 * self.ULP, 9.0]
        assert compare_traces(self.trace([0, 1], scores), self.trace([0, 1]), 0) == "same"
        assert compare_traces(self.trace([0, 1], scores), self.trace([0, 2]), 0) == "near_tie"
        assert compare_traces(self.trace([0, 1], scores), self.trace([0, 3]), 0) == "different"
        assert compare_traces(self.trace([0, 1], scores), self.trace([1, 2]), 0) == "different"
        assert compare_traces(self.trace([0, 1]), self.trace([0, 2]), 0) == "different"  # No scores, no excuse.

    def test_a_merge(self):
        # Tokens 0 to 3 in one cluster, one of them alone and the rest merged; or two clusters joined wrongly.
        scores = [5.0, 5.0 + 3 * self.ULP, 9.0, 9.5]
        first, second = [[1, 0, 0, 0], [0, 1, 1, 1]], [[0, 1, 0, 0], [1, 0, 1, 1]]
        third = [[0, 0, 1, 0], [1, 1, 0, 1]]
        ours = self.trace([0, 2], scores, first)
        assert compare_traces(ours, self.trace([0, 2], None, first), 0) == "same"
        assert compare_traces(ours, self.trace([0, 1], None, first), 0) == "different"
        assert compare_traces(ours, self.trace([1, 2], None, second), 0) == "near_tie"
        assert compare_traces(ours, self.trace([2, 3], None, third), 0) == "different"
        assert compare_traces(ours, self.trace([0, 2], None, [[1, 1, 0, 0], [0, 0, 1, 1]]), 0) == "different"

    def test_a_merged_group_of_one_is_told_from_a_kept_token(self):
        # One cluster, both tokens stay: which of them is the merged one, and so doubled, may be a near-tie.
        first, second = [[1, 0], [0, 2]], [[2, 0], [0, 1]]
        for gap, verdict in ((3, "near_tie"), (30, "different")):
            ours = self.trace([0, 1], [5.0, 5.0 + gap * self.ULP], first)
            assert compare_traces(ours, self.trace([0, 1], None, second), 0) == verdict

    def test_clusters(self):
        # Three tokens on a line, two clusters: the one in the middle belongs to either side as it is moved.
        group, at = torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, 2)
        clusters = Clusters(centers=(2, 3), spatial_radius=1.0)

        def trace(middle, labels=None):
            features = torch.tensor([[[0.0], [middle], [8.0]]])
            found = Clustering.of(features, at, group, clusters)
            told = found.labels.numpy() if labels is None else np.array([labels])
            return replace(self.trace([0, 1, 2]), labels=told, relabel=found.moved)

        near, far = trace(4.0), trace(4.1)
        assert {tuple(row) for row in near.relabel(0, 16 * 2.0**-23)} == {(0, 0, 1), (0, 1, 1)}
        for labels in ([0, 0, 1], [0, 1, 1]):
            assert compare_traces(near, trace(4.0, labels), 0) in ("same", "near_tie")
        assert compare_traces(near, trace(4.0, [0, 1, 0]), 0) == "different"
        assert compare_traces(far, far, 0) == "same"
        assert compare_traces(far, trace(4.1, [0, 0, 1]), 0) == "different"
        assert compare_traces(replace(near, relabel=None), trace(4.0, [1, 1, 0]), 0) == "different"
        assert compare_traces(near, self.trace([0, 1, 2]), 0) == "same"  # no labels are told

    def test_stages_end_at_the_first_that_differs(self):
        scores = [1.0, 5.0, 5.0 + 3 * self.ULP, 9.0]
        near, other = self.trace([0, 2]), self.trace([0, 3])

        def prefill(*traces):
            return Prefill(logits=np.zeros((1, 2)), state=None, vision=traces[0], drops=tuple(traces[1:]))

        base = self.trace([0, 1], scores)
        assert compare_stages(prefill(base, base), prefill(base, base), 0) == ("same", "same")
        assert compare_stages(prefill(base, base), prefill(near, other), 0) == ("near_tie",)
        assert compare_stages(prefill(base, base), prefill(base, other), 0) == ("same", "different")
        assert compare_stages(prefill(None, base), prefill(base, base), 0) == ("different",)
        assert compare_stages(prefill(None), prefill(None), 0) == ()


class TestLayers:
    def caches(self):
        rng = np.random.default_rng(0)
        return [tuple(rng.normal(size=(2, 1, length, 3)) for _ in range(2)) for length in (6, 6, 4)]

    def test_equal_caches(self):
        kv = self.caches()
        assert layer_deviations(kv, kv, [6, 6, 4], np.array([0, 2]), [0, 1]).tolist() == [0, 0, 0]

    def test_padding_and_generated_tokens_do_not_count(self):
        ours, theirs = self.caches(), self.caches()
        for key, value in theirs:
            key[1, :, :2] += 100  # Row 1 is padded by two.
            value[1, :, :2] = np.nan
        longer = [
            tuple(np.pad(t, ((0, 0), (0, 0), (0, 3), (0, 0)), constant_values=9) for t in pair) for pair in theirs
        ]
        assert layer_deviations(ours, longer, [6, 6, 4], np.array([0, 2]), [0, 1]).tolist() == [0, 0, 0]
        assert layer_deviations(ours, longer, [6, 6, 4], np.array([0, 0]), [0, 1]).min() == np.inf

    def test_the_worst_of_keys_and_values_of_the_rows_asked_for(self):
        ours, theirs = self.caches(), self.caches()
        theirs[1][1][0, 0, 3, 1] += 0.5
        theirs[2][0][1, 0, 3, 1] -= 0.25
        assert layer_deviations(ours, theirs, [6, 6, 4], np.array([0, 2]), [0, 1]) == pytest.approx([0, 0.5, 0.25])
        assert layer_deviations(ours, theirs, [6, 6, 4], np.array([0, 2]), [1]) == pytest.approx([0, 0, 0.25])

    def test_a_cache_of_another_length_is_infinitely_wrong(self):
        ours, theirs = self.caches(), self.caches()
        theirs[2] = tuple(tensor[:, :, :3] for tensor in theirs[2])
        assert layer_deviations(ours, theirs, [6, 6, 4], np.array([0, 0]), [0]).tolist() == [0, 0, np.inf]
