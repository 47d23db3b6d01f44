"""moe_ray beside lm-evaluation-harness, on the same models and prompts: see `__main__`."""
