"""The pipelines. Start with `evaluate`."""
