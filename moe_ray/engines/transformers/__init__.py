"""A checkpoint in the own process, loaded and decoded with the transformers library."""
