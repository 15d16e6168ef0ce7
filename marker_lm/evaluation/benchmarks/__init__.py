"""Public benchmarks by their official definitions, one a file."""
