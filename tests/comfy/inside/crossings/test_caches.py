"""Caches of model calls: a skipped step repeats what the last edited prediction did."""

import pytest

from .cells import check, meets
from .columns import COLUMNS, GUIDERS
from .neighbors import CACHES, need

CELLS = [(n, c) for n in CACHES for c in (*COLUMNS, *GUIDERS) if meets(n.key, c)]


class Steps:
    """Which steps of a run asked the UNet."""

    def __init__(self, model):
        self.unet, self.asked, self.now = model.model.diffusion_model, [], False

    def __enter__(self):
        self.hook = self.unet.input_blocks[0][0].register_forward_pre_hook(self.note)
        return self

    def __exit__(self, *_):
        self.hook.remove()

    def note(self, *_):
        self.now = True

    def step(self, *_):
        self.asked.append(self.now)
        self.now = False


def skipping(kind, sigmas, asked):
    """A change of a reference: it skips the steps that a run skipped."""
    at = dict(zip(sigmas.tolist(), asked, strict=False))

    def lazily(reference):
        kept, denoise = {}, reference.denoise

        def skipped(x, sigma):
            if not at[sigma]:
                return x + kept["difference"]
            made = denoise(x, sigma)
            kept["difference"] = made - x
            return made

        reference.denoise = skipped

    def easily(reference):
        kept = {}

        def wrapper(prompt):
            def around(executor, x, *args, **kw):
                options = args[-1]
                key, here = (prompt, options["cond_or_uncond"][0]), float(options["sigmas"][0])
                if not at[min(at, key=lambda sigma: abs(sigma - here))]:
                    return x + kept[key]
                made = executor(x, *args, **kw)
                kept[key] = made - x
                return made

            return around

        reference.unet_wrapper = wrapper

    def prepare(reference):
        if kind == "EasyCache":
            return easily(reference)
        for one in (reference, getattr(reference, "beside", None)):
            if one is not None:
                lazily(one)

    return prepare


@pytest.mark.parametrize(("cache", "column"), CELLS, ids=[f"{n.key}-{c}" for n, c in CELLS])
def test_cell(columns, embedded, cache, column, caplog):
    need(cache)
    name, column, model = column, columns(column), embedded[0]
    ours = [cache.on(model)] if name in GUIDERS else [column.made(cache.on(model)), cache.on(column.made(model))]
    for placed in ours:
        with Steps(model) as steps:

            def found(placed=placed, steps=steps):
                return column.found(placed, sigmas=column.more_sigmas, callback=steps.step)

            def expected(steps=steps):
                assert steps.asked[:2] == [True, True] and not all(steps.asked), "it skips steps, but not all"
                steps.__exit__()
                return column.expected(model, column.more_sigmas, skipping(cache.key, column.more_sigmas, steps.asked))

            check(cache.key, name, found, expected, caplog, model=placed)
