"""What the tests of controlled pairs share."""

from .sampling import run_guider

TOLERANCE = 1e-4
#: Of the schedule over which the fixture ``source`` is inverted.
STEPS = 4


def encode(embedded, text):
    """A text as CONDITIONING of the embedded model."""
    clip = embedded[1]
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sample(guider, source, sampler="euler", **kw):
    """Sample what the fixture ``source`` gives."""
    return run_guider(guider, source[1], source[2], sampler, **kw)
