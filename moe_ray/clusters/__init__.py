"""Runs on clusters: Ray jobs, SLURM, Kubernetes, and a doctor."""
