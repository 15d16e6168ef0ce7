"""One row of a decoding job."""

import dataclasses

from marker_lm.decoding.controls import Controls
from marker_lm.decoding.guidance import Guidance
from marker_lm.decoding.prompts import Prompt
from marker_lm.decoding.sampling import Sampling


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt with all that its answer depends on; nothing else of a job changes it.

    Attributes:
      prompt: a text, or messages that end with what is asked.
      controls: the state of each category.
      sampling: how the text is sampled; the seed is the row's own.
      guidance: how strongly the markers pull; None for plain decoding.
    """

    prompt: Prompt
    controls: Controls = Controls()
    sampling: Sampling = Sampling()
    guidance: Guidance | None = None
