"""A model behind an external OpenAI-compatible API."""
