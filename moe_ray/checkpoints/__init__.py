"""Checkpoints: identity, shapes, tensors, tokenizer files, download."""
