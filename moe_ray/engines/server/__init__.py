"""A model behind a server that the replica starts and stops itself."""
