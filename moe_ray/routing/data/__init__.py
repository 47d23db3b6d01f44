"""The router's data: an experiment's domains become texts that no two splits share."""
