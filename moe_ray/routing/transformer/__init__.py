"""The transformer router: an encoder with a classification head, trained with transformers' Trainer."""
