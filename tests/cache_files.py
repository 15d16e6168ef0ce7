"""A cache written in one process, without SeqIO, for tests that read one."""

import itertools
import os
import uuid

from marker_lm.data.cache_writer import ROWS_PER_SHARD, CacheWriter


def write_cache(spans, folder, manifest, rows_per_shard=ROWS_PER_SHARD):
    """Writes a cache of Spans and returns its manifest; `manifest` has its `categories`."""
    writer = CacheWriter(os.fspath(folder), uuid.uuid4().hex, tuple(manifest["categories"]))
    rows, shards = iter(spans), 0
    while block := list(itertools.islice(rows, rows_per_shard)):
        writer.write_shard(shards, block)
        shards += 1
    return writer.finish(shards, manifest)
