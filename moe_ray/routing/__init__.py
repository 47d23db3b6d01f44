"""The router: text -> probabilities over domains. Data, training, calibration, and what it does with a query."""
