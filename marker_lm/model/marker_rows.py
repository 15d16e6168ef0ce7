"""First values for the rows of new tokens in the tables of embeddings and of the output head."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def init_marker_rows(table_VxD: jax.Array, rows: Sequence[tuple[int, Sequence[int]]]) -> jax.Array:
    """The table with some rows replaced, each by the mean of others: new tokens begin as words.

    Pure; under `jax.jit` it works on sharded tables. Means are taken in float32 and of the table as
    it is given.

    Args:
      table_VxD: of any float dtype.
      rows: (id of the row, ids of the rows it is the mean of), as
        `markers.definitions.marker_rows` gives them.

    Returns:
      A table of the same shape and dtype.

    Raises:
      ValueError: an id is not in the table, or a row has none to be the mean of.
    """
    if not rows:
        return table_VxD
    ids_M = np.array([id for id, _ in rows], np.int32)
    lengths_M = np.array([len(words) for _, words in rows], np.int32)
    words_T = np.array([word for _, words in rows for word in words], np.int32)
    highest = max(ids_M.max(), words_T.max(initial=0))
    if highest >= table_VxD.shape[0]:
        raise ValueError(
            f"the table has {table_VxD.shape[0]} rows and a marker needs row {highest}; "
            "make the vocabulary as large as tokenizer and reserved ids together."
        )
    if not lengths_M.all():
        raise ValueError(f"row {ids_M[lengths_M.argmin()]} has no words to begin as.")
    owner_T = np.repeat(np.arange(len(rows)), lengths_M)
    sums_MxD = jax.ops.segment_sum(
        table_VxD[words_T].astype(jnp.float32), owner_T, len(rows), indices_are_sorted=True
    )
    means_MxD = sums_MxD / lengths_M[:, None]
    return table_VxD.at[ids_M].set(means_MxD.astype(table_VxD.dtype))
