"""marker_lm: fine-tune language models with training-time markers, and pull them as levers."""

__version__ = "0.1.0"
