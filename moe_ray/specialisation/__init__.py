"""Specialisation of experts: traces of who is selected for what, measures with their nulls, and causal statistics."""
