import pytest, torch
import comfy.controlnet
import nodes as stock
from ..sampling import difference, run_guider
from .test_conditionings import LEFT, changed, lora, masked, mixed  # noqa
from .test_guiders import ours_of
from .neighbors import core, run_node
from .test_pairs import Fusion

class Control(comfy.controlnet.ControlBase):
    def get_control(self, x, *_, **__):
        return {"input": [], "middle": [torch.full((x.shape[0], 256, x.shape[2] // 4, x.shape[3] // 4), 3.0)], "output": []}

def test_pair_prompts(nodes, embedded, source, caplog, lora):
    pair = Fusion(nodes, embedded, source); model = embedded[0]
    p = pair.positive
    second = [[p[0][0] * 0.9, p[0][1]]]
    ms = model.get_model_object("model_sampling")
    mid = float(pair.sigmas[1]) * 1.01
    pct = next(i / 1000 for i in range(1001) if ms.percent_to_sigma(i / 1000) < mid)
    sig = ms.percent_to_sigma(pct)
    two = [*p, *second]
    m = [*masked(p, LEFT), *masked(second, 1 - LEFT)]
    r = [*stock.ConditioningSetTimestepRange().set_range(p, 0.0, pct)[0], *stock.ConditioningSetTimestepRange().set_range(second, pct, 1.0)[0]]
    for name, positive, parts in (("combined", two, [(two[0], None, None), (two[1], None, None)]), ("masked", m, [(m[0], LEFT, None), (m[1], 1 - LEFT, None)]), ("ranged", r, [(r[0], None, (1e9, sig)), (r[1], None, (sig, 0))])):
        caplog.clear()
        pair.positive = positive
        try:
            found = run_guider(pair.guider(model), pair.latent, pair.sigmas)
        except ValueError as e:
            print("CELL fusion", name, "refused", e); continue
        ref = pair.reference(model)
        mixed(ref, parts)
        inner = ref.conditional
        ref.conditional = lambda x, s, **kw: inner(x, s, **{"edit": ref.target_edit, **kw})
        expected = ref.sample(pair.latent["samples"], pair.sigmas)
        print(f"\nCELL fusion {name} ref {difference(found, expected):.2g} {ours_of(caplog)}")
    pair.positive = [[p[0][0], {**p[0][1], "control": Control(), "control_apply_to_uncond": False}]]
    found = run_guider(pair.guider(model), pair.latent, pair.sigmas)
    pair.positive = p
    ref = pair.reference(model)
    inner = ref.conditional
    ref.conditional = lambda x, s, **kw: inner(x, s, control=Control(), **kw)
    print(f"\nCELL fusion control ref {difference(found, ref.sample(pair.latent['samples'], pair.sigmas)):.2g}")
    name, sd = lora
    at = changed(sd)
    hooks = run_node(core("CreateHookLoraModelOnly", "nodes_hooks"), name, 0.8)[0]
    pair.positive = run_node(core("ConditioningSetProperties", "nodes_hooks"), p, 1.0, "default", hooks=hooks)[0]
    caplog.clear()
    found = run_guider(pair.guider(model), pair.latent, pair.sigmas)
    pair.positive = p
    ref = pair.reference(model)
    predict = ref.predict
    def hooked(x, sigma, prompt, branch, **kw):
        ref.base = at(0.8).model if branch == 0 else model.model
        return predict(x, sigma, prompt, branch, **kw)
    ref.predict = hooked
    print(f"\nCELL fusion hook ref {difference(found, ref.sample(pair.latent['samples'], pair.sigmas)):.2g} {ours_of(caplog)}")
    load = stock.LoraLoaderModelOnly().load_lora_model_only(model, name, 0.8)[0]
    found = run_guider(pair.guider(load), pair.latent, pair.sigmas)
    print(f"\nCELL fusion lora ref {difference(found, pair.reference(at(0.8)).sample(pair.latent['samples'], pair.sigmas)):.2g}")
