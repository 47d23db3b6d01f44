"""How good routers are, on real questions, real prompts and real out-of-domain queries: see `__main__`."""
