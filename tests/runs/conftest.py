"""Reports of these tests are written without drawing their plots."""

from tests.support.plots import undrawn_plots

__all__ = ["undrawn_plots"]
