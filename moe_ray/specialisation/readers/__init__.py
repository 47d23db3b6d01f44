"""Readers: routing that other software recorded, as traces of this package. One file per format."""
