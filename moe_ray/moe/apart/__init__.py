"""Experts trained apart on one frozen backbone, then mixed: each domain's feed-forward networks are its expert."""
