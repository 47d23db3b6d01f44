"""Labelled texts for routers, gates and experts: read, clean, split."""
