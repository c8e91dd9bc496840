"""Running a model batch by batch: as it is, and under a schedule."""
