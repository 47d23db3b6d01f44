"""Upcycling: a dense checkpoint becomes a mixture that computes the same until its experts are varied or trained."""
