"""Fetching an experiment's models from the model hub."""
