"""Mixtures inside one checkpoint: upcycled dense models, merged fine-tunes, branch-train-mix."""
