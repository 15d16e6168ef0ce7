"""Tokenizers: text to ids and back. TensorFlow is not needed."""
