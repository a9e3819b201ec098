"""Figures and tables of the papers, filled from recorded runs."""
