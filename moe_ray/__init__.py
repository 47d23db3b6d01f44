"""Compare small domain experts behind a router with one general model, on your data and your hardware."""

__version__ = "0.1.0"
