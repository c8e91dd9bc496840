"""The torch.library side: schemas, fake kernels, torch.export with symbolic sizes, refusal of bad input."""

import subprocess
import sys

import op_cases
import pytest
import torch

from vitcop.plugins import ops
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import ALL_OPS


@pytest.mark.parametrize(("name", "attributes"), op_cases.CASES)
def test_opcheck(name, attributes):
    tensors = op_cases.inputs(name, 2, 12)
    torch.library.opcheck(getattr(torch.ops.vitcop, name).default, (*tensors, *attributes))


@pytest.mark.parametrize("name", ALL_OPS)
@pytest.mark.parametrize("num_visual", [0, 1, 9])
def test_fake_outputs_look_like_real_ones(name, num_visual):
    for attributes in op_cases.ATTRIBUTES[name]:
        tensors = op_cases.inputs(name, 2, num_visual)
        real = op_cases.run_torch(name, tensors, attributes)
        with torch._subclasses.FakeTensorMode() as mode:
            fake = op_cases.run_torch(name, [mode.from_tensor(t) for t in tensors], attributes)
        for one, other in zip(real, fake, strict=True):
            assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
            assert one.is_contiguous()
            assert all(one.numel() == 0 or one.data_ptr() != t.data_ptr() for t in tensors)


def test_schema_follows_the_definition():
    for name, spec in ALL_OPS.items():
        schema = getattr(torch.ops.vitcop, name).default._schema
        names = [argument.name for argument in schema.arguments]
        assert names == [*spec.inputs, *(attribute for attribute, _ in spec.attributes)]
        assert "SymInt" not in str(schema)
        kinds = [str(argument.type) for argument in schema.arguments]
        tensors = ["Optional[Tensor]" if value in spec.optional_inputs else "Tensor" for value in spec.inputs]
        assert kinds == [*tensors, *(kind.__name__ for _, kind in spec.attributes)]
        assert len(schema.returns) == len(spec.outputs)


class DropTwice(torch.nn.Module):
    """A merge, then a selection among what is left, on hidden states that double as keys."""

    def forward(self, hidden, visual_index, labels):
        keys = hidden.unsqueeze(1)
        hidden, _, visual_index, kept, _ = ops.cluster_merge(
            hidden, visual_index, ops.knorm_scores(keys, visual_index), labels, num_clusters=(1, 4), keep=(3, 4)
        )
        kept_positions, visual_index, kept_again = ops.knorm_select(hidden.unsqueeze(1), visual_index, keep=(1, 3))
        rows = torch.arange(hidden.shape[0]).unsqueeze(1)
        return hidden[rows, kept_positions], visual_index, kept.gather(1, kept_again)


def drop_inputs(batch, num_visual, num_text):
    index = torch.arange(2, 2 + num_visual).repeat(batch, 1)
    return (
        torch.randn(batch, num_visual + num_text, 8),
        index,
        torch.arange(num_visual).repeat(batch, 1) % (num_visual // 4),
    )


def test_export_with_symbolic_sizes():
    batch, length, num_visual = torch.export.Dim("B"), torch.export.Dim("S", min=16), torch.export.Dim("V", min=8)
    shapes = ({0: batch, 1: length}, {0: batch, 1: num_visual}, {0: batch, 1: num_visual})
    module = DropTwice()
    program = torch.export.export(module, drop_inputs(2, 24, 9), dynamic_shapes=shapes)
    found = [node.target for node in program.graph.nodes if str(node.target).startswith("vitcop")]
    assert [str(target) for target in found] == [
        "vitcop.knorm_scores.default",
        "vitcop.cluster_merge_plan.default",
        "vitcop.knorm_select.default",
    ]
    output = next(iter(reversed(program.graph.nodes))).args[0]
    assert all(isinstance(node.meta["val"].shape[1], torch.SymInt) for node in output)
    # The range of V says that something is kept: no min or max in the shapes behind a drop.
    assert not any(word in str(node.meta["val"].shape) for node in output for word in ("Min", "Max"))
    for sizes in ((1, 8, 8), (3, 31, 4), (2, 100, 20)):
        tensors = drop_inputs(*sizes)
        for expected, got in zip(module(*tensors), program.module()(*tensors), strict=True):
            assert torch.equal(expected, got)


def test_symbolic_sizes_down_to_one_kept_token():
    class Select(torch.nn.Module):
        def forward(self, scores, visual_index, sequence):
            return ops.score_select(scores, visual_index, sequence, keep=(1, 9), order="largest")

    num_visual, length = torch.export.Dim("V", min=2), torch.export.Dim("S", min=4)
    shapes = ({1: num_visual}, {1: num_visual}, {1: length})
    tensors = op_cases.inputs("score_select", 2, 20)
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        program = torch.export.export(Select(), tensors, dynamic_shapes=shapes)
    small = op_cases.inputs("score_select", 2, 3)
    for expected, got in zip(Select()(*small), program.module()(*small), strict=True):
        assert torch.equal(expected, got)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value):
    def bad(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    q, keys = op_cases.inputs("vision_saliency", 1, 5)
    index = torch.arange(5).unsqueeze(0)
    mask = torch.ones(1, 6, dtype=torch.int64)
    places = torch.zeros(1, 6, 2)
    calls = [
        lambda: ops.vision_saliency(bad(q), keys),
        lambda: ops.vision_saliency(q, bad(keys)),
        lambda: ops.density_peak_clusters(bad(keys[:, 0]), places, centers=(1, 2)),
        lambda: ops.density_peak_clusters(keys[:, 0], bad(places), centers=(1, 2)),
        lambda: ops.density_peak_clusters(bad(keys[:, 0, :1]), places[:, :1], centers=(1, 2)),
        lambda: ops.knorm_scores(bad(keys), index + 1),
        lambda: ops.knorm_scores(bad(keys), index + 1, head_reduction="mean_norm"),
        lambda: ops.knorm_select(bad(keys), index + 1, keep=1),
        lambda: ops.text_query_scores(bad(q), keys, index, attention_mask=mask),
        lambda: ops.score_select(bad(torch.rand(1, 5)), index, 6, keep=1, order="largest"),
        lambda: ops.cluster_merge(
            torch.rand(1, 6, 2), index, bad(torch.rand(1, 5)), torch.zeros_like(index), num_clusters=1, keep=1
        ),
    ]
    for call in calls:
        with pytest.raises(InputError, match="NaN or infinite"):
            call()


def test_finite_values_that_overflow_are_refused():
    q, keys = op_cases.inputs("vision_saliency", 1, 5)
    index = torch.arange(5).unsqueeze(0)
    calls = [
        lambda: ops.density_peak_clusters(keys[:, 0] * 1e30, torch.zeros(1, 6, 2), centers=(1, 2)),
        lambda: ops.knorm_scores(keys * 1e30, index),
        lambda: ops.knorm_select(keys * 1e30, index, keep=1),
        lambda: ops.text_query_scores(q * 1e30, keys * 1e30, index),
    ]
    for call in calls:
        with pytest.raises(InputError, match="NaN or infinite"):
            call()


def test_values_at_positions_without_visual_tokens_do_not_matter():
    keys, _ = op_cases.inputs("knorm_scores", 1, 5)
    index = torch.arange(2, 7).unsqueeze(0)
    expected = ops.knorm_select(keys, index, keep=2)
    keys[:, :, 0] = float("nan")
    for one, other in zip(expected, ops.knorm_select(keys, index, keep=2), strict=True):
        assert torch.equal(one, other)


def test_shapes_and_choices_are_checked():
    keys, index = op_cases.inputs("knorm_scores", 2, 5)
    scores = torch.rand(2, 5)
    calls = {
        "keys must be": lambda: ops.knorm_scores(keys[0], index),
        "has 1 rows, the batch has 2": lambda: ops.knorm_scores(keys, index[:1]),
        "must lie in 0": lambda: ops.knorm_scores(keys, index + 100),
        "must ascend": lambda: ops.knorm_scores(keys, index.flip(1)),
        "must be int64": lambda: ops.knorm_scores(keys, index.int()),
        "scores must be": lambda: ops.score_select(scores[:, :4], index, 12, keep=1, order="largest"),
        "order must be one of smallest, largest": lambda: ops.knorm_select(keys, index, keep=1, order="best"),
        "head_reduction must be one of": lambda: ops.knorm_scores(keys, index, head_reduction="max"),
        "merge must be one of": lambda: ops.cluster_merge_plan(
            scores, index, index, 12, num_clusters=1, keep=1, merge="x"
        ),
        "keep must be a fraction": lambda: ops.knorm_select(keys, index, keep=(1, 0)),
        "cutoff_distance must be positive": lambda: ops.density_peak_clusters(
            keys[:, 0], torch.rand(2, 12, 2), centers=(1, 2), cutoff_distance=0.0
        ),
        "cutoff_quantile must be in": lambda: ops.density_peak_clusters(
            keys[:, 0], torch.rand(2, 12, 2), centers=(1, 2), cutoff_quantile=2.0
        ),
        "3 query heads cannot share 2": lambda: ops.text_query_scores(torch.rand(2, 3, 16), keys, index),
    }
    for message, call in calls.items():
        with pytest.raises(InputError, match=message):
            call()


def test_definitions_load_without_torch():
    code = "import sys, vitcop.plugins.registry; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys, vitcop.plugins.onnx_functions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
