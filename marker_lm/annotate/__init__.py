"""Annotators: they fill the markers that rows lack, and say how sure they are."""
