"""Runs as Ray jobs: packaging, submission, following, results."""
