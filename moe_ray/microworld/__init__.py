"""The embedded default: a small synthetic world that four small models learn from scratch, in the real formats."""
