"""The hash behind RandomScores, for any integers that know // % * ^ (torch, NumPy, Python).

A two-round multiply-xorshift hash of 32-bit words (C. Wellons, "Prospecting for hash functions", 2018). Both
multipliers are below 2^31, so that products with 32-bit words stay below 2^63: signed 64-bit arithmetic is enough.
"""

WORD = 1 << 32
MULTIPLIER_1 = 0x21F0AAAD
MULTIPLIER_2 = 0x735A2D97
SHIFT_1 = 1 << 16
SHIFT_2 = 1 << 15
SEED_OFFSET = 0x9E3779B9
SCORE_SHIFT = 1 << 8
SCORE_STEP = 2.0**-24
"""A score is the top 24 bits of a word: exact in fp32."""


def mix(word):
    """One word (0 <= word < 2^32) to another, one to one."""
    word = (word ^ (word // SHIFT_1)) * MULTIPLIER_1 % WORD
    word = (word ^ (word // SHIFT_2)) * MULTIPLIER_2 % WORD
    return word ^ (word // SHIFT_2)


def hash_word(position, seed: int):
    """The word of a position under a seed. Positions and seeds count modulo 2^32."""
    return mix((mix(position % WORD) + mix((seed % WORD + SEED_OFFSET) % WORD)) % WORD)
