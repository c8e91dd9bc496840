"""Checkpoints, their processors and prompts, and what each family of models does its own way."""
