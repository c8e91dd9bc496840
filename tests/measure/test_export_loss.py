"""Near-tie samples are counted and leave the gates; everything else stays in them."""

import numpy as np
import pytest

from vitcop.calibrate.run.generation import Generated
from vitcop.calibrate.run.runner import DropTrace, Prefill
from vitcop.calibrate.schedule.schedule import Drop, Schedule
from vitcop.export.measure.losses import ExportLoss

SCHEDULE = Schedule(num_layers=2, drops=(Drop(layer=1, keep=(1, 2)),))
ULP = np.spacing(np.float32(5))
SCORES = np.array([[1, 5, 5 + 3 * ULP, 9], [1, 5, 6, 9]], dtype=np.float32)


def answer(kept, tokens, *, shift=0.0, scores=None, logits=None):
    """Two rows: one drop, `len(tokens[row])` steps over four words."""
    if logits is None:
        logits = np.zeros((2, 3, 4), dtype=np.float32)
        for row in range(2):
            for step, token in enumerate(tokens[row]):
                logits[row, step, token] = 1.0
    trace = DropTrace(kept_visual=np.array(kept), scores=scores)
    done = Prefill(logits=logits[:, 0], state=None, drops=(trace,), kv_lengths=(6, 4))
    return Generated(tokens=tokens, finished=[True, True], prefill=done, logits=logits + np.float32(shift))


def compare(pruned, engine):
    loss = ExportLoss(SCHEDULE)
    rows = loss.add(pruned, engine, None, np.zeros(2, dtype=int))
    return loss, rows


def test_equal():
    loss, rows = compare(answer([[0, 1]] * 2, [[1, 2], [3]], scores=SCORES), answer([[0, 1]] * 2, [[1, 2], [3]]))
    assert not any(row.near_tie or row.kept_differs or row.answer_differs for row in rows)
    assert loss.logits.worst == 0 and loss.to_dict()["steps"] == 3 and loss.to_dict()["prefix_share"] == 1


def test_a_near_tie_leaves_the_logits_and_the_answers():
    loss, rows = compare(
        answer([[0, 1]] * 2, [[1, 2], [3]], scores=SCORES), answer([[0, 2], [0, 1]], [[2, 2], [3]], shift=0.0)
    )
    assert rows[0].near_tie and not rows[0].kept_differs and not rows[0].answer_differs
    assert loss.logits.worst == 0 and loss.to_dict()["near_tie_samples"] == 1
    assert loss.to_dict()["kept_agreement"] == {"drop_0": 0.75}


def test_the_same_swap_where_scores_tell_the_two_apart_is_an_error():
    loss, rows = compare(
        answer([[0, 1]] * 2, [[1, 2], [3]], scores=SCORES), answer([[0, 1], [0, 2]], [[1, 2], [2]], shift=0.0)
    )
    assert rows[1].kept_differs and rows[1].answer_differs and not rows[1].near_tie
    assert loss.logits.worst == 1.0


def test_logits_are_compared_up_to_the_step_where_the_answers_part():
    ours = answer([[0, 1]] * 2, [[1, 2, 3], [3]], scores=SCORES)
    theirs = answer([[0, 1]] * 2, [[1, 3, 0], [3]])
    theirs.logits[0, 2] = 1000.0  # After another token the logits are of another text.
    loss, rows = compare(ours, theirs)
    assert rows[0].answer_differs and rows[0].prefix == 1
    assert loss.logits.worst == 1.0 and loss.to_dict()["steps"] == 3


def test_a_choice_between_two_tokens_that_tie_is_a_near_tie():
    logits = np.zeros((2, 3, 4), dtype=np.float32)
    logits[0, 0, 1], logits[0, 0, 2], logits[1, 0, 3] = 5 + 3 * ULP, 5, 1
    ours = answer([[0, 1]] * 2, [[1], [3]], scores=SCORES, logits=logits)
    theirs = answer([[0, 1]] * 2, [[2], [3]], logits=logits)
    _, rows = compare(ours, theirs)
    assert rows[0].near_tie and not rows[0].answer_differs
    ours.logits[0, 0, 1] = 5.1
    _, rows = compare(ours, theirs)
    assert rows[0].answer_differs and not rows[0].near_tie


@pytest.mark.parametrize("extra", [[], [0]])
def test_an_answer_that_ends_elsewhere_differs(extra):
    _, rows = compare(answer([[0, 1]] * 2, [[1, 2], [3]], scores=SCORES), answer([[0, 1]] * 2, [[1, 2, *extra], [3]]))
    assert rows[0].answer_differs == bool(extra)
