"""What nodes of other packs do on one MODEL, imitated: the edit is what it is without them, or one line says who can't.

No node stands here for a certain pack. Each does what some do: wrappers that split, repeat or tile a batch, that make
options anew or call the network's layers by themselves; patches that lengthen keys; guiders and samplers of their own.
"""

import copy
import itertools

import comfy.patcher_extension
import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from .crossings.cells import TOLERANCE, told
from .crossings.columns import COLUMNS, GUIDERS, columns  # noqa: F401  a fixture
from .sampling import difference, run_guider

_W = comfy.patcher_extension.WrappersMP
#: Columns that stand for the others where what is tested does not depend on the edit.
FEW = ("injection", "deadiff", "fusion")


def rows_at(inputs, at, count):
    """Some rows of what has one for each."""
    return {n: v[at] if torch.is_tensor(v) and v.ndim and len(v) == count else v for n, v in inputs.items()}


def each(told_which):
    """One call a chunk, which says which it is by number and prompt, by number only, or not at all."""

    def function(apply, given):
        x, numbers = given["input"], given["cond_or_uncond"]
        step, outs = len(x) // len(numbers), []
        for i, number in enumerate(numbers):
            at = slice(i * step, (i + 1) * step)
            part = rows_at(given["c"], at, len(x))
            options = dict(part["transformer_options"])
            if told_which:
                options["cond_or_uncond"] = [number]
            if told_which == "prompt":
                options["uuids"] = [options["uuids"][i]]
            outs.append(apply(x[at], given["timestep"][at], **{**part, "transformer_options": options}))
        return torch.cat(outs)

    return function


def twice(apply, given):
    apply(given["input"], given["timestep"], **given["c"])
    return apply(given["input"], given["timestep"], **given["c"])


def repeated(apply, given):
    count = len(given["input"])
    both = rows_at({"x": given["input"], "t": given["timestep"], **given["c"]}, [*range(count)] * 2, count)
    return apply(both.pop("x"), both.pop("t"), **both)[:count]


def tiled(apply, given):
    halves = given["input"].chunk(2, -1)
    return torch.cat([apply(half, given["timestep"], **given["c"]) for half in halves], -1)


def by_itself(apply, given):
    """What caches of deep layers do: they walk through the network's blocks themselves."""
    base, t, c = apply.__self__, given["timestep"], given["c"]
    x = base.model_sampling.calculate_input(t, given["input"])
    at = base.model_sampling.timestep(t).float()
    out = UNetModel._forward(
        base.diffusion_model, x, at, c["c_crossattn"], None, c.get("control"), c["transformer_options"]
    )
    return base.model_sampling.calculate_denoised(t, out, given["input"])


def around_unet(function):
    def on(model):
        patched = model.clone()
        patched.set_model_unet_function_wrapper(function)
        return patched

    return on


def wrapped(kind, wrapper):
    def on(model):
        patched = model.clone()
        patched.add_wrapper_with_key(kind, "other", wrapper)
        return patched

    return on


def other_order(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kw):
    options = dict(transformer_options)
    options |= {name: options[name][::-1] for name in ("cond_or_uncond", "uuids")}
    count = len(options["uuids"])

    def turned(value):
        return torch.cat(value.chunk(count)[::-1])

    return turned(executor(turned(x), turned(t), c_concat, turned(c_crossattn), control, options, **kw))


def with_options(*names, without=()):
    """A wrapper of the model that makes the options anew: these only, or without those."""

    def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kw):
        names_now = names or set(transformer_options) - set(without)
        options = {name: transformer_options[name] for name in names_now}
        return executor(x, t, c_concat, c_crossattn, control, options, **kw)

    return wrapper


def by_name(executor, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kw):
    return executor(x, timesteps, context=context, y=y, control=control, transformer_options=transformer_options, **kw)


def sample_by_name(executor, noise, latent_image, sampler, sigmas, *more, **kw):
    names = ("denoise_mask", "callback", "disable_pbar", "seed")
    return executor(noise, latent_image, sampler, sigmas, **dict(zip(names, more, strict=False)), **kw)


def new_options(executor, x, timestep, model_options, seed):
    options = {n: v for n, v in model_options["transformer_options"].items() if n != "exemplar"}
    return executor(x, timestep, {**model_options, "transformer_options": options}, seed)


def copied(model):
    patched = model.clone().clone()
    patched.model_options = copy.deepcopy(patched.model_options)
    return patched


TOGETHER = {
    "a call for each prompt": around_unet(each("prompt")),
    "a call for each number": around_unet(each("number")),
    "twice": around_unet(twice),
    "the other order": wrapped(_W.APPLY_MODEL, other_order),
    "without prompts": wrapped(_W.APPLY_MODEL, with_options(without=["uuids"])),
    "arguments of the network by name": wrapped(_W.DIFFUSION_MODEL, by_name),
    "arguments of sampling by name": wrapped(_W.OUTER_SAMPLE, sample_by_name),
    "copied options": copied,
}
#: What says so: of an edit that steps aside, and of a guider that refuses.
ASIDE = {
    "rows by themselves": (around_unet(each(None)), "splits or joins the batch", "splits or joins the batch"),
    "repeated": (around_unet(repeated), "splits or joins the batch", "splits or joins the batch"),
    "tiled": (around_unet(tiled), "in tiles", "works in tiles"),
    "no levels": (wrapped(_W.APPLY_MODEL, with_options(without=["sigmas"])), "says no noise level", None),
    "own options": (
        wrapped(_W.APPLY_MODEL, with_options("cond_or_uncond", "sigmas", "uuids")),
        "did nothing",
        None,
    ),
    "own walk": (around_unet(by_itself), "did nothing", None),
}


@pytest.fixture(scope="module")
def known(columns):  # noqa: F811
    """What a column gives without anybody else, and what its MODEL gives without our node."""
    made = {}

    def get(name):
        if name not in made:
            column = columns(name)
            plain = column.found(column.embedded[0]) if name in COLUMNS else None
            made[name] = column.expected(column.embedded[0]), plain
        return made[name]

    return get


@pytest.mark.parametrize("case", TOGETHER)
@pytest.mark.parametrize("name", FEW)
def test_nothing_changes(columns, embedded, known, name, case, caplog):  # noqa: F811
    column, on = columns(name), TOGETHER[case]
    placed = {"injection": lambda: on(column.made(embedded[0])), "deadiff": lambda: column.made(on(embedded[0]))}
    found = column.found(placed.get(name, lambda: on(embedded[0]))())
    assert difference(found, known(name)[0]) < TOLERANCE and not told(caplog)


def test_options_made_anew(columns, embedded, known, caplog):  # noqa: F811
    """Before our wrapper looks at a prediction, what was lost is put back; behind it, it is said."""
    column, on = columns("injection"), wrapped(_W.PREDICT_NOISE, new_options)
    assert difference(column.found(column.made(on(embedded[0]))), known("injection")[0]) < TOLERANCE
    assert not told(caplog)
    assert torch.equal(column.found(on(column.made(embedded[0]))), known("injection")[1])
    (warning,) = told(caplog)
    assert warning.startswith(f"{column.name} did nothing")


@pytest.mark.parametrize("case", ASIDE)
@pytest.mark.parametrize("name", FEW)
def test_it_is_said(columns, embedded, known, name, case, caplog):  # noqa: F811
    column, (on, says, refused) = columns(name), ASIDE[case]
    if name in GUIDERS and refused:
        with pytest.raises(ValueError, match=f"^{column.name} can't work here.*{refused}"):
            column.found(on(embedded[0]))
        return
    if name == "deadiff" and case == "tiled":  # a tile listens to its tokens as a picture does

        def prepare(reference):
            whole = reference.predict

            def predict(x, *args, **kw):
                return torch.cat([whole(half, *args, **kw) for half in x.chunk(2, -1)], -1)

            reference.predict = predict

        expected, warned = column.expected(embedded[0], prepare=prepare), 0
    else:
        expected, warned = column.found(on(embedded[0])) if name in COLUMNS else None, 1
    caplog.clear()
    found = column.found(on(embedded[0]) if name in GUIDERS else on(column.made(embedded[0])))
    assert expected is None or difference(found, expected) < TOLERANCE
    warnings = told(caplog)
    assert len(warnings) == warned, warnings
    assert all(w.startswith(column.name) and says in w for w in warnings), warnings


def longer(part):
    """Keys and values of something else behind the layer's own."""

    def patch(n, k, v, options):
        return n, torch.cat([k, part * k], 1), torch.cat([v, part * v], 1)

    return patch


@pytest.mark.parametrize("name", ["deadiff", "instances", "prompts"])
def test_keys_beside_the_prompts(columns, embedded, name, caplog):  # noqa: F811
    """As many as the prompt has, so that they could be taken for the prompt once more."""
    column, theirs = columns(name), embedded[0].clone()
    theirs.set_model_attn2_patch(longer(0.5))
    expected = column.expected(theirs)
    placed = theirs if name in GUIDERS else column.made(theirs)
    assert difference(column.found(placed), expected) < TOLERANCE and not told(caplog)


@pytest.mark.parametrize("name", ["injection", "lcad", "fusion"])
def test_keys_of_another_picture(columns, embedded, name, caplog):  # noqa: F811
    column, theirs = columns(name), embedded[0].clone()
    theirs.set_model_attn1_patch(longer(0.5))
    column.found(theirs if name in GUIDERS else column.made(theirs))
    (warning,) = told(caplog)
    assert warning.startswith(f"{column.name} steps aside: ") and __name__ in warning


class Guider(comfy.samplers.CFGGuider):
    """Guidance by the formula, asked for in a way of its own: (guider's lists, lists of each call)."""

    ways = {
        "negative first": (("positive", "negative"), [("negative", "positive")]),
        "one by one": (("positive", "negative"), [("positive",), ("negative",)]),
        "one by one, other names": (("first", "second"), [("first",), ("second",)]),
    }

    def ask(self, way, positive, negative):
        self.names, self.calls = self.ways[way]
        self.inner_set_conds(dict(zip(self.names, (positive, negative), strict=True)))
        return self

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        answers = {}
        for names in self.calls:
            lists = [self.conds[name] for name in names]
            made = comfy.samplers.calc_cond_batch(self.inner_model, lists, x, timestep, model_options)
            answers.update(zip(names, made, strict=True))
        cond, uncond = (answers[name] for name in self.names)
        return uncond + 3.0 * (cond - uncond)


@pytest.mark.parametrize("way", Guider.ways)
@pytest.mark.parametrize("name", ["injection", "instances"])
def test_guiders(columns, embedded, known, name, way, caplog):  # noqa: F811
    column = columns(name)
    guider = Guider(column.made(embedded[0])).ask(way, column.positive, column.negative)
    found, (expected, plain), warnings = run_guider(guider, column.latent, column.sigmas), known(name), told(caplog)
    if "names" not in way:
        assert difference(found, expected) < TOLERANCE and not warnings
    else:
        (warning,) = warnings
        assert warning.startswith(column.name) and "which prompt is positive" in warning
        assert difference(found, plain) < TOLERANCE


def stepping(ask):
    """Euler's method over ``ask(model, x, sigma, extra_args)``."""

    def function(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for here, there in itertools.pairwise(sigmas):
            x = x + (x - ask(model, x, here, extra_args)) / here * (there - here)
        return x

    return comfy.samplers.KSAMPLER(function)


def one_by_one(model, x, sigma, extra):
    return torch.cat([model(row[None], sigma[None], **extra) for row in x])


def candidates(model, x, sigma, extra):
    return model(torch.cat([x, x]), sigma.repeat(2 * len(x)), **extra)[: len(x)]


def uneven(model, x, sigma, extra):
    return model(x, sigma * torch.linspace(1, 0.9, len(x)), **extra)


@pytest.fixture(scope="module")
def three(nodes, embedded, scene):
    """Three inputs' inversion."""
    gray = scene[0]
    with torch.inference_mode():
        (marked,) = nodes("ExemplarAttentionCapture", model=embedded[0], layers="color", keep="everything (q, k, v)")
        latent = {"samples": embedded[2].encode(torch.cat([gray, gray.flip(1), gray.flip(2)]))}
        plain = {"conditioning": embedded[3], "depth": 4, "steps": 50, "measure_round_trip": False}
        return nodes("ExemplarDDIMInversion", model=marked, latent=latent, **plain)


def sampled(guider, latent, sigmas, sampler):
    samples = latent["samples"]
    return guider.sample(torch.zeros_like(samples), samples, sampler, sigmas, disable_pbar=True, seed=0)


@pytest.mark.parametrize("ask", [one_by_one, candidates, uneven])
@pytest.mark.parametrize("name", ["injection", "instances", "prompts"])
def test_samplers(columns, embedded, three, monkeypatch, name, ask, caplog):  # noqa: F811
    column, latent = columns(name), {"samples": columns(name).latent["samples"].repeat(3, 1, 1, 1)}
    if name == "injection":
        monkeypatch.setattr(column, "inverted", {**column.inverted, "input": three})
        latent = three[1]
    guider = column.guider(embedded[0] if name in GUIDERS else column.made(embedded[0]))
    if name in GUIDERS:
        with pytest.raises(ValueError, match=f"^{column.name} can't work with a sampler"):
            sampled(guider, latent, column.sigmas, stepping(ask))
        return
    expected = run_guider(guider, latent, column.sigmas)
    plain = sampled(column.guider(embedded[0]), latent, column.sigmas, stepping(ask))
    assert not told(caplog)
    found, warnings = sampled(guider, latent, column.sigmas, stepping(ask)), told(caplog)
    if ask is candidates or (ask is one_by_one and name == "instances"):  # whose masks are the same for all
        assert difference(found, expected) < TOLERANCE and not warnings
    else:
        (warning,) = warnings
        assert warning.startswith(f"{column.name} steps aside")
        assert ("noise level" if ask is uneven else "for which") in warning
        assert difference(found, plain) < TOLERANCE


class Counter(torch.nn.Module):
    """A layer of another pack's, as motion modules are: it counts rows by the numbers of the options."""

    def forward(self, x):
        self.rows = len(x)
        return x


def test_rows_are_not_shared_with_layers_that_count_them(columns, embedded):  # noqa: F811
    column, model, counter = columns("injection"), embedded[0], Counter()
    block = model.model.diffusion_model.input_blocks[1]
    block.append(counter)
    try:
        found = column.found(column.made(model))
    finally:
        del block[-1]
    assert counter.rows == 2 and difference(found, column.expected(model)) < TOLERANCE


@pytest.mark.parametrize("name", ["deadiff", "lcad", "fusion"])
def test_nothing_is_kept_of_a_run_that_breaks_off(columns, embedded, name):  # noqa: F811
    column = columns(name)
    placed = embedded[0] if name in GUIDERS else column.made(embedded[0])
    options, first, guider = str(placed.model_options), column.found(placed), column.guider(placed)

    def breaking(model, x, sigma, extra):
        model(x, sigma.repeat(len(x)), **extra)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sampled(guider, column.latent, column.sigmas, stepping(breaking))
    assert torch.equal(run_guider(guider, column.latent, column.sigmas), first)
    assert str(placed.model_options) == options


def test_three_injections_with_masks_are_one(columns, embedded):  # noqa: F811
    column, chain = columns("injection"), embedded[0]
    masks = torch.zeros(3, 1, 64, 64)
    for i, mask in enumerate(masks):
        mask[:, 16 * i : 16 * i + 16] = 1  # whole tokens of the coarsest layer
        chain = column.made(chain, input_mask=mask)
    whole = column.made(embedded[0], input_mask=masks.sum(0))
    assert difference(column.found(chain), column.found(whole)) < TOLERANCE
