"""Branch-train-mix: feed-forward experts trained separately on one frozen backbone, then mixed."""
