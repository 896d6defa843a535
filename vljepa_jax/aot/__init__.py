"""Training steps compiled ahead of time for slices that are not there, and what their programs say."""
