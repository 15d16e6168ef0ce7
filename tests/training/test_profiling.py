"""Profiles of some steps, by their number or on demand."""

import jax
import jax.numpy as jnp

from marker_lm.training.profiling import ASK_FILE, Profiler


def profiles(workdir):
    return sorted(path for path in workdir.rglob("*.xplane.pb"))


def run_steps(profiler, first, last):
    double = jax.jit(lambda x: 2 * x)
    for done in range(first, last):
        profiler.before_step(done)
        profiler.after_step(done + 1, double(jnp.ones(4)))


def test_a_window_of_steps(tmp_path):
    lines = []
    profiler = Profiler(tmp_path, at=3, steps=2, log=lines.append)
    run_steps(profiler, 0, 4)
    assert not profiles(tmp_path) and not lines
    run_steps(profiler, 4, 5)
    assert len(profiles(tmp_path / "profile")) == 1
    assert lines == [f"a profile is in {tmp_path / 'profile'}"]
    run_steps(profiler, 5, 9)
    profiler.close()
    assert len(profiles(tmp_path)) == 1


def test_on_demand(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    profiler = Profiler(tmp_path, at=0, steps=1, log=print)
    run_steps(profiler, 0, 3)
    (tmp_path / ASK_FILE).touch()
    now[0] = 10.0
    run_steps(profiler, 3, 5)
    assert len(profiles(tmp_path)) == 1 and not (tmp_path / ASK_FILE).exists()


def test_a_run_that_ends_within_it(tmp_path):
    profiler = Profiler(tmp_path, at=1, steps=100, log=print)
    run_steps(profiler, 0, 3)
    profiler.close()
    assert len(profiles(tmp_path)) == 1
