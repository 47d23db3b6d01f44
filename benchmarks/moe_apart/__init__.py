"""Experts that were trained apart and then mixed, held against dense models on real text."""
