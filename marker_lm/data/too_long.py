"""What becomes of rows that are longer than a sequence.

    reject                the row is left out
    truncate_completion   its answer is cut at its end, and then not followed by eos
    split                 its answer is cut into several sequences that repeat prompt and markers

A conversation of several turns is one whole for this: it is left out, or it ends where the sequence
does, also under 'split', because its later turns mean little without the ones before.
"""

import dataclasses

import numpy as np

TOO_LONG = ("reject", "truncate_completion", "split")
LEAST_ROOM = 1 / 8  # of a sequence: an answer that all before it leaves less is not cut


@dataclasses.dataclass(frozen=True)
class Cut:
    """What is written of D drawn conversations with E turns.

    is_first_E: bool, the turns that begin a conversation.
    room_E: int64, tokens that the answer (completion and eos) may have.
    pieces_E: int64, in how many pieces the answer is written; 0 where it is left out.
    rejected_D, truncated_D, split_D: bool, what became of the conversations that do not fit.
    """

    is_first_E: np.ndarray
    room_E: np.ndarray
    pieces_E: np.ndarray
    rejected_D: np.ndarray
    truncated_D: np.ndarray
    split_D: np.ndarray


def cut_too_long(
    head_E: np.ndarray, answer_E: np.ndarray, turns_D: np.ndarray, length: int, too_long: str
) -> Cut:
    """Which part of each drawn conversation is written, from the lengths of its turns.

    Args:
      head_E: int64, tokens before the answer, since the end of the answer before.
      answer_E: int64, tokens of the answer, eos included.
      turns_D: int64, turns of each conversation; they stand one after the other.
      length: slots of a sequence.
      too_long: one of TOO_LONG.
    """
    end_D = np.cumsum(turns_D)
    first_D = end_D - turns_D
    is_first_E = np.zeros(len(head_E), bool)
    is_first_E[first_D] = True
    size_E = head_E + answer_E
    upto_E = np.cumsum(size_E)
    upto_E -= np.repeat(upto_E[first_D] - size_E[first_D], turns_D)
    # Tokens of the answer that find room after all before it; the last one is a target only.
    room_E = length + 1 - (upto_E - answer_E)
    fits_E = answer_E <= room_E
    fits_D = fits_E[end_D - 1]
    is_cut_E = ~fits_E & (room_E >= LEAST_ROOM * length) & (too_long != "reject")
    is_cut_E[1:] &= is_first_E[1:] | fits_E[:-1]  # what follows a turn that is cut is lost
    if too_long == "reject":
        fits_E = np.repeat(fits_D, turns_D)
    pieces_E = (fits_E | is_cut_E).astype(np.int64)
    single_D = turns_D == 1
    if too_long == "split":
        is_split_E = is_cut_E & np.repeat(single_D, turns_D)
        pieces_E[is_split_E] = -(-answer_E[is_split_E] // room_E[is_split_E])
    rejected_D = pieces_E[first_D] == 0
    split_D = ~fits_D & ~rejected_D & single_D & (too_long == "split")
    return Cut(
        is_first_E,
        room_E,
        pieces_E,
        rejected_D,
        truncated_D=~fits_D & ~rejected_D & ~split_D,
        split_D=split_D,
    )
