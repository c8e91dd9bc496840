"""Generation and teacher forcing over a runner that needs no model: its logits follow from what it was fed."""

from collections import Counter

import numpy as np
import pytest

from vitcop.calibrate.run.generation import Sampler, continue_free, generate, greedy, teacher_forced
from vitcop.calibrate.run.runner import Prefill
from vitcop.plugins.errors import InputError

VOCAB = 11


class Counting:
    """After token t comes t + step of the row; the prompt of row b counts as token b."""

    name = "counting"

    def __init__(self, rows, steps=None):
        self.rows, self.steps, self.fed = rows, np.array(steps or [1] * rows), []

    def _logits(self, tokens):
        logits = np.zeros((self.rows, VOCAB), dtype=np.float32)
        logits[np.arange(self.rows), (tokens + self.steps) % VOCAB] = 5.0
        return logits

    def prefill(self, batch):
        return Prefill(logits=self._logits(np.arange(self.rows)), state=None)

    def decode(self, token_ids, state):
        assert token_ids.shape == (self.rows,) and token_ids.dtype == np.int64
        self.fed.append(token_ids.tolist())
        return self._logits(token_ids)


class Extending(Counting):
    def extend(self, token_ids, state):
        return np.stack([self._logits(column) for column in token_ids.T], axis=1)


def test_rows_stop_at_their_end_token():
    runner = Counting(3)
    answer = generate(runner, None, max_new_tokens=5, eos_ids={3, 100})
    assert answer.tokens == [[1, 2, 3], [2, 3], [3]]
    assert answer.finished == [True, True, True]
    assert runner.fed == [[1, 2, 3], [2, 3, 3]], "rows that ended are fed their end token"
    assert len(answer.decode_seconds) == 2 and answer.logits is None


def test_length_limit_and_logits():
    answer = generate(Counting(2), None, max_new_tokens=3, eos_ids=(), keep_logits=True)
    assert answer.tokens == [[1, 2, 3], [2, 3, 4]] and answer.finished == [False, False]
    assert answer.logits.shape == (2, 3, VOCAB)
    np.testing.assert_array_equal(answer.logits.argmax(-1), answer.tokens)
    with pytest.raises(InputError, match="max_new_tokens"):
        generate(Counting(1), None, max_new_tokens=0, eos_ids=())


def test_greedy_takes_the_lowest_of_equals():
    assert greedy(np.array([[0.0, 2.0, 2.0]])).tolist() == [1]


@pytest.mark.parametrize("kind", [Counting, Extending])
def test_teacher_forcing(kind):
    logits = teacher_forced(kind(2), None, [[7, 1, 4], [5]])
    assert logits.shape == (2, 3, VOCAB)
    assert logits[0].argmax(-1).tolist() == [1, 8, 2], "the prompt's word, then the word after each fed token"
    assert logits[1, 0].argmax() == 2
    assert teacher_forced(kind(2), None, [[7], [5]]).shape == (2, 1, VOCAB)


def test_continue_free_is_generate():
    runner = Counting(2)
    free = continue_free(runner, runner.prefill(None), max_new_tokens=4, eos_ids={3})
    assert free.tokens == generate(Counting(2), None, max_new_tokens=4, eos_ids={3}).tokens


def test_sampler_is_seeded_and_rows_are_independent():
    logits = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    draws = [[Sampler(seed=seed)(logits).tolist() for _ in range(2)] for seed in range(8)]
    assert all(a == b for a, b in draws) and len({tuple(a) for a, _ in draws}) > 1
    few, many = Sampler(seed=5), Sampler(seed=5)
    for _ in range(5):
        assert few(logits[:2]).tolist() == many(logits)[:2].tolist()


def test_sampler_follows_the_distribution_and_its_limits():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = np.log(probabilities)[None].astype(np.float32)
    num = 4000

    def frequencies(**limits):
        sampler = Sampler(seed=1, **limits)
        counts = Counter(int(sampler(logits)[0]) for _ in range(num))
        return np.array([counts[i] / num for i in range(4)])

    np.testing.assert_allclose(frequencies(), probabilities, atol=0.03)
    np.testing.assert_allclose(frequencies(top_k=2), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(frequencies(top_p=0.75), [0.625, 0.375, 0, 0], atol=0.03)
    hot = np.sqrt(probabilities) / np.sqrt(probabilities).sum()
    np.testing.assert_allclose(frequencies(temperature=2.0), hot, atol=0.03)
    assert (
        frequencies(top_k=1)[0] == 1.0 and frequencies(top_p=1e-6)[0] == 1.0 and frequencies(temperature=1e-3)[0] == 1.0
    )


@pytest.mark.parametrize(
    "limits", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"temperature": float("nan")}]
)
def test_sampler_refuses_nonsense(limits):
    with pytest.raises(InputError, match="sampling needs"):
        Sampler(**limits)
