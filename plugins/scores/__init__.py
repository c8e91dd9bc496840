"""Scores of visual tokens other than key norms (text query, uniform, random), and the selection by any score."""
