"""The micro-world: synthetic data sets in real formats, and small models that are trained on them from scratch."""
