"""The pipelines. `evaluate` tells the run."""
