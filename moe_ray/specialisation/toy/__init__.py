"""Small mixtures that are trained to classify texts, one for each seed, to study what their experts do."""
