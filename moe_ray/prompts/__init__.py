"""From messages to token ids: one implementation for evaluation, gates, generation and serving."""
