"""The router as a part of a run: trained once or loaded, and asked once for each example."""
