"""Schedules, what they cost, and those that are known by name. No torch."""
