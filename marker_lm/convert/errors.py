"""The error of a checkpoint that cannot be read, written or understood."""


class ConvertError(ValueError):
    """A checkpoint that cannot be used; one sentence that names the tensor or key and the mend."""
