"""The arms of an experiment: what is done with the markers of the same rows."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Arm:
    """One training condition.

    Attributes:
      label: for people.
      prompt_side: whether markers stand after the prompt (subject to dropout).
      completion_side: whether the full list stands before the answer.
      shuffled: whether the list is that of another row: the right distribution on the wrong rows.
      filler: whether one and the same token stands for every token of the markers: the list takes
        its place and says nothing but how long it is.
    """

    label: str
    prompt_side: bool
    completion_side: bool
    shuffled: bool = False
    filler: bool = False


ARMS = {
    "markers": Arm("with markers", True, True),
    "baseline": Arm("without markers", False, False),
    "shuffled": Arm("with shuffled markers", True, True, shuffled=True),
    "completion_only": Arm("markers on the completion side only", False, True),
    "prompt_only": Arm("markers on the prompt side only", True, False),
    "filler": Arm("with lists of filler tokens", True, True, filler=True),
}
