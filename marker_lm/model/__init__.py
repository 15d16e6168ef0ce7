"""The Flax transformer: pure functions of (params, tokens, positions, segments, cache)."""
