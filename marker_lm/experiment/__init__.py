"""Arms and seeds in turn: what is registered, trained, measured and compared."""
