"""From rows to batches: sources, SeqIO tasks, cache, assembly, packing plan, loader.

Only `tasks` and `vocabularies` import TensorFlow and SeqIO; the rest starts without them.
"""
