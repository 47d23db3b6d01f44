"""In-process inference with transformers."""
