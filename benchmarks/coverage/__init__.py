"""Intervals and tests where the truth is known: do the intervals cover it, do the tests cry wolf?"""
