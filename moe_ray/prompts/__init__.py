"""From messages to token ids: the one road for evaluation, gates, generation and serving."""
