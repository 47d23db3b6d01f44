"""Comparison of traces: experts are matched first, then their use is compared."""
