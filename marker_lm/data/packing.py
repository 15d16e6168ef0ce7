"""Best-fit-decreasing packing of example lengths into sequences of a fixed number of slots."""

import numpy as np


def pack(lengths_N: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Packs examples into as few sequences as best-fit-decreasing finds.

    Rooms are small integers, so the best fit is one bit operation: bit r of `rooms` says that some
    open sequence has exactly r free slots. Runs in O(N) for any fixed capacity.

    Args:
      lengths_N: int, 1 <= length <= capacity.
      capacity: slots of a sequence.

    Returns:
      order_N: int64, indices into `lengths_N`, grouped by sequence.
      starts: int64[S + 1], sequence s holds `order_N[starts[s]:starts[s + 1]]`.
    """
    by_length = np.argsort(-lengths_N, kind="stable")
    sequence_N = np.empty(len(lengths_N), np.int64)
    open_by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    sequences = 0
    for i, length in zip(by_length.tolist(), lengths_N[by_length].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            sequence = open_by_room[room].pop()
            if not open_by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, sequence = capacity, sequences
            sequences += 1
        sequence_N[i] = sequence
        left = room - length
        if left:
            open_by_room[left].append(sequence)
            rooms |= 1 << left
    order_N = np.argsort(sequence_N, kind="stable")
    counts = np.bincount(sequence_N, minlength=sequences)
    return order_N, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
