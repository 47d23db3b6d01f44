"""What `serve run` and `serve deploy` start: choices, no logic."""
