"""The steps as functions: what the command line and the stages of a run both call."""
