"""Runs as SLURM jobs: a readable batch script, one agent per node, and a private Ray cluster for each job."""
