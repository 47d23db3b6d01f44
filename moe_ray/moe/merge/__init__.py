"""Merge fine-tunes of one model behind a gate that reads each prompt once."""
