"""Mixtures inside one checkpoint: dense models upcycled, fine-tunes merged behind a gate, branch-train-mix."""
