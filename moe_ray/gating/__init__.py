"""Small networks over embeddings, and calibrated probabilities: what routers and gates share."""
