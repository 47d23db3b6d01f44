"""Real data, real architectures, one YAML, one command: see `__main__`."""
