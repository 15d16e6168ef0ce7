"""Decoding and scoring with markers as levers."""
