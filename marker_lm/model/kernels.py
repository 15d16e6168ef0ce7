"""Which kernel attends where."""

import functools
from collections.abc import Callable

import jax

from marker_lm.model import cudnn
from marker_lm.model.config import ModelConfig
from marker_lm.model.layout import parts
from marker_lm.model.splash import LANES, splash_attention


def platform() -> str:
    """What the current mesh's devices are: 'cpu', 'gpu' or 'tpu'; without a mesh, JAX's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def kernel_for(config: ModelConfig, length: int, scale: float) -> Callable[..., jax.Array] | None:
    """Attention within whole sequences of `length` tokens, as (q, k, v, segment ids, window=).

    Splash on TPUs for multiples of 128 tokens, cuDNN on GPUs where it can; None is attention by a
    mask.
    """
    where = platform()
    if where == "tpu" and length % (LANES * parts("length")) == 0:
        return functools.partial(splash_attention, scale=scale, softcap=config.attention_softcap)
    if where == "gpu" and (kernel := cudnn.kernel(config, length)):
        return functools.partial(kernel, scale=scale)
    return None
