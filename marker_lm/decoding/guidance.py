"""How strongly markers pull: a mixture of the logits with them and without them."""

import dataclasses
import math

from marker_lm.decoding.controls import Controls


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Text is sampled from u + weight (c - u): classifier-free guidance (Ho and Salimans 2022,
    arXiv:2207.12598; for language models Sanchez et al. 2023, arXiv:2306.17806).

    c are the logits under the row's own controls, u those under other ones. Each has a prompt side
    and a marker block of its own, both read the same text. With `against` this is a contrast of two
    settings.

    Attributes:
      weight: 1 is c alone, which is plain decoding, and 0 is u alone, both to the bit; more than 1
        strengthens what sets c apart from u.
      against: the controls of u; by default those of the row without the guided pins.
      categories: the pins that are guided; all where empty.

    Raises:
      ValueError: a weight that is no number, or categories beside `against`.
    """

    weight: float
    against: Controls | None = None
    categories: frozenset[str] = frozenset()

    def __post_init__(self):
        if not math.isfinite(self.weight):
            raise ValueError(f"the guidance weight is {self.weight}; it must be a finite number.")
        if self.against is not None and self.categories:
            raise ValueError(
                "guidance has other controls (against) and categories; the categories only say "
                "which pins to leave out of the row's own controls, so give one of the two."
            )

    def other(self, controls: Controls) -> Controls:
        """The controls of u, given those of c; both have canonical values."""
        if self.against is not None:
            return self.against
        left = {
            c: value
            for c, value in controls.pinned.items()
            if self.categories and c not in self.categories
        }
        return dataclasses.replace(controls, pinned=left)
