"""Norms of language-model keys as a score of visual tokens, and the selection by that score."""
