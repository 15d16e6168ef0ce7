"""Best-fit-decreasing packing of example lengths into sequences of a fixed number of slots."""

import numpy as np


def pack(lengths_N: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Packs examples into as few sequences as best-fit-decreasing finds.

    Examples of one length are placed together, and so are sequences of one room: of examples of
    length l, the sequences with the least room r >= l take r // l each, one after the other, before
    any other is looked at, just as if the examples came one by one. So the loop runs over lengths
    and rooms, of which there are at most `capacity`, and not over examples.

    Args:
      lengths_N: int, 1 <= length <= capacity.
      capacity: slots of a sequence.

    Returns:
      order_N: int64, indices into `lengths_N`, grouped by sequence, the longest first.
      starts: int64[S + 1], sequence s holds `order_N[starts[s]:starts[s + 1]]`.
    """
    by_length = np.argsort(-lengths_N, kind="stable")
    # Open sequences by what room they have; bit r of `rooms` says that there are some with room r.
    open_by_room: dict[int, list[np.ndarray]] = {}
    rooms = 0
    sequences = 0
    placed = [np.zeros(0, np.int64)]
    lengths, counts = np.unique(lengths_N, return_counts=True)
    for length, count in zip(lengths[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            fitting = rooms >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                taken = np.concatenate(open_by_room.pop(room))
                rooms &= ~(1 << room)
            else:
                room = capacity
                taken = np.arange(sequences, sequences + -(-count // (capacity // length)))
                sequences += len(taken)
            each = room // length
            full, rest = divmod(count, each) if count < each * len(taken) else (len(taken), 0)
            used = full + (rest > 0)
            placed += [np.repeat(taken[:full], each), np.repeat(taken[full:used], rest)]
            count -= full * each + rest
            for left, which in (
                (room - each * length, taken[:full]),
                (room - rest * length, taken[full:used]),
                (room, taken[used:]),
            ):
                if left and len(which):
                    open_by_room.setdefault(left, []).append(which)
                    rooms |= 1 << left
    sequence_N = np.concatenate(placed)
    return (
        by_length[np.argsort(sequence_N, kind="stable")],
        np.concatenate([[0], np.cumsum(np.bincount(sequence_N, minlength=sequences))]),
    )
