"""Dense models turned into mixtures of their own feed-forward networks."""
