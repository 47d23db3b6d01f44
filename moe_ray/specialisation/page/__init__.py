"""The self-contained HTML page of a trace, an ablation, or both."""
