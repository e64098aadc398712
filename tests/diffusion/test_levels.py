"""Noise levels that went through a host's arithmetic."""

from comfyui_exemplar.diffusion.levels import level_of, same_level, same_levels, step_of

SIGMAS = (8.0, 4.0, 2.0, 1.0, 0.0)


def test_steps_follow_sigma():
    assert [step_of(s, SIGMAS) for s in (8.0, 7.9, 4.0, 3.99, 1.0, 0.5)] == [0, 0, 1, 1, 3, 3]
    # levels that went through float32 arithmetic, and a sigma above all of them
    assert step_of(4.0000001, SIGMAS) == 1 and step_of(9.0, SIGMAS) == 0


def test_almost_equal_levels_are_one():
    assert same_level(4.0003, 4.0) and not same_level(4.001, 4.0) and same_level(0.0, 0.0)
    assert same_levels((8.0001, 4.0), SIGMAS[:2]) and not same_levels((8.0,), SIGMAS[:2])
    assert level_of(2.0001, SIGMAS) == 2.0 and level_of(3.0, SIGMAS) is None
