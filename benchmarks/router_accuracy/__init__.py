"""How good routers are, on real questions, real prompts and real foreign queries: see `__main__`."""
