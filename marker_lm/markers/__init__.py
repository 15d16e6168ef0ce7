"""Markers: taxonomy, templates, token codec and dropout (plain Python and NumPy)."""
