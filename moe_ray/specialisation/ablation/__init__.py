"""What removing each expert costs: removals and their matched control draws on texts, and the table of effects."""
