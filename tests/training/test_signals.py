"""What is asked of a run from outside reaches it, and all its processes."""

import signal

import numpy as np
import pytest

from marker_lm.sharding.mesh import make_mesh
from marker_lm.training.signals import make_any_process, remember


def test_a_signal_is_remembered_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGUSR1)
    with remember(signal.SIGUSR1) as came:
        assert not came()
        signal.raise_signal(signal.SIGUSR1)
        assert came()
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize("sizes", [dict(data=8), dict(data=2, fsdp=2, tensor=2), dict(context=8)])
def test_a_wish_of_this_process_comes_back(sizes):
    any_process = make_any_process(make_mesh(**{"data": 1} | sizes))
    for wishes in ([False, False], [True, False], [False, True], [True, True]):
        assert np.asarray(any_process(wishes)).tolist() == wishes
