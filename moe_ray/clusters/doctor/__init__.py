"""Checks of a machine, or of all nodes of a cluster, before a run needs them."""
