"""VCT's recorded attention control (golden 3) and content-concept fusion (golden 4)."""

import importlib.util
from dataclasses import dataclass

import pytest
import torch

from comfyui_exemplar.attention.alignment import concept_control
from comfyui_exemplar.attention.call import CROSS, SELF, UNCONDITIONAL, AttentionCall
from comfyui_exemplar.attention.control import SOURCE, SOURCE_UNCONDITIONAL, TARGET, ControlledAttention, PromptControl
from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.attention.map_edits import attention_map
from comfyui_exemplar.attention.windows import cross_share, self_active
from comfyui_exemplar.diffusion.pivot import Pivots
from comfyui_exemplar.diffusion.replay import Replay
from comfyui_exemplar.pipelines.vct_pair import ControlledRun, Fusion

from . import hosts

INSIDE_COMFY = importlib.util.find_spec("comfy") is not None
MAPS, LATENTS, MID_MAPS = 1e-6, 1e-3, 1e-4
#: Rows of the published batch.
BRANCHES = (SOURCE_UNCONDITIONAL, UNCONDITIONAL, SOURCE, TARGET)


def cases(golden):
    """Cases of a golden, as far as pytest's collection may know them: any set's are among these."""
    return pytest.mark.parametrize("case", ["a", "b", "c"])


def need(vct_set, golden, case):
    if case not in vct_set.meta[golden]:
        pytest.skip(f"this set has no case {case}")
    return vct_set.meta[golden][case]


def control(vct_set, case, recorded, reweighted=True):
    """The control of a recorded case."""
    columns = recorded["equalizer"].shape[-1]
    count = case.get("num_vectors", vct_set.meta["clip"]["num_placeholder_vectors_for_goldens_1_2_4"])
    made = concept_control(
        (columns, columns),
        count,
        1,
        cross_window=case["cross_ratio"],
        self_window=case["self_ratio"],
        weight=case.get("eq_value", 0.5) if reweighted else 1,
        weight_place="official",
    )
    refine = made.edits[0]
    assert torch.equal(refine.mapper, recorded["mapper"][0]) and torch.equal(refine.alphas, recorded["alphas"][0])
    if reweighted:
        assert torch.equal(made.edits[1].equalizer, recorded["equalizer"][0])
    for step in range(case["num_steps"]):
        share = cross_share(step, case["num_steps"], case["cross_ratio"], columns)
        assert torch.equal(share, recorded["cross_alpha"][step])
    return made


class Maps:
    """Recorded maps as an attention call: whatever the edit returns shows which map was used.

    Logits are the maps' logarithms, so softmax gives the maps back; values are the identity, so the output is the map.
    """

    def __init__(self, maps, heads, kind):
        rows = len(maps) // heads
        self.maps = maps.unflatten(0, (rows, heads))
        queries, keys = maps.shape[-2:]
        self.heads, self.kind = heads, kind
        # one-hot queries pick their row of logits from the keys
        q = torch.eye(queries).expand(rows, heads, -1, -1)
        k = self.maps.clamp_min(1e-38).log().transpose(-1, -2) * queries**0.5
        v = torch.eye(keys).expand(rows, heads, -1, -1)
        q, k, v = (t.transpose(1, 2).flatten(2) for t in (q, k, v))
        self.call = AttentionCall(
            Layer("middle", 0),
            1.0,
            q,
            k,
            v,
            heads,
            BRANCHES,
            (0,) * rows,
            tuple(range(rows)),
            (1, queries),
            self.attend,
            kind,
        )

    @staticmethod
    def attend(q, k, v, heads):
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        maps = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return (maps @ v).transpose(1, 2).flatten(2)

    def after(self, control, step, steps):
        sigmas = [float(steps - i) for i in range(steps + 1)]
        call = AttentionCall(**{**vars(self.call), "sigma": sigmas[step]})
        out = ControlledAttention(control, sigmas)(call, AttentionCall.plain)
        return out.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@cases("g3")
def test_attention_maps(vct_set, case):
    meta, recorded = need(vct_set, "g3", case), vct_set.file(f"3_attention_{case}")
    seen = set()
    for name, status in meta["status"].items():
        mode, step, layer = name.split("_", 2)
        made = control(vct_set, meta, recorded, reweighted=mode == "full")
        maps = Maps(recorded[f"in_{layer}"], meta["heads"][layer], CROSS if layer == "cross" else SELF)
        after = maps.after(made, int(step.removeprefix("step")), meta["num_steps"])
        wanted = maps.maps.clone()
        if status == "edited":
            wanted[BRANCHES.index(TARGET)] = recorded[f"out_{name}"]
            assert float((wanted - maps.maps).abs().max()) > 1e-3
        assert float((after - wanted).abs().max()) <= MAPS, name
        seen.add((layer, status))
    assert {("cross", "edited"), ("self", "edited"), ("self_q1025", "unchanged")} <= seen


def test_windows(vct_set):
    for row in vct_set.meta["window_table"]:
        steps = range(row["num_steps"])
        of = row["num_steps"]
        assert [s for s in steps if self_active(s, of, row["self_ratio"])] == row["self_on_steps"]
        assert [s for s in steps if cross_share(s, of, row["cross_ratio"], 1).any()] == row["cross_on_steps"]


def levels(vct_set, steps):
    """(timesteps, levels in sigma) of a way back."""
    timesteps = vct_set.meta["scheduler"]["timesteps_by_num_steps"][str(steps)]
    alphas = [vct_set.alpha(t) for t in (*timesteps, -1)]
    return timesteps, [((1 - a) / a) ** 0.5 for a in alphas]


def run_of(vct_set, case, replayed, controlled=True):
    """(case, recorded, the recorded unconditional contexts, levels, control, the source's way, start)."""
    meta, recorded = need(vct_set, "g4", case), vct_set.file(f"4_fusion_{case}")
    pivots = vct_set.file(f"2_pivot_{meta['pivot_run']}")
    timesteps, sigmas = levels(vct_set, meta["num_steps"])
    made = control(vct_set, meta, recorded)
    if not controlled:
        made = PromptControl(made.columns, (), 0.0, 0.0)
    way = torch.stack([vct_set.noised(x, t) for x, t in zip(pivots["latent_cur"], (*timesteps, -1), strict=True)])
    kept = Pivots(tuple(sigmas), pivots["uncond"][:, 0], way, (), 0.0, meta["guidance_scale"], "parity")
    return Run(meta, recorded, kept, made, Replay.of_pivots(kept) if replayed else None)


@dataclass
class Run:
    meta: dict
    recorded: dict
    pivots: Pivots
    control: PromptControl
    replay: Replay | None

    @property
    def fusion(self):
        return Fusion(self.control, self.meta["guidance_scale"], self.replay, self.pivots)

    def sample(self, vct_set):
        """Each latent on the way and the last one, (B, C, h, w), and the rows of each model call."""
        return self._in_comfy(vct_set) if INSIDE_COMFY else self._in_diffusers(vct_set)

    def _in_diffusers(self, vct_set):
        from comfyui_exemplar.hosts.diffusers.vct_control import PairDenoiser, sample_pair

        base, plain = vct_set.file("base"), self.pivots.at
        texts = {
            UNCONDITIONAL: plain,
            SOURCE_UNCONDITIONAL: plain,
            SOURCE: base["ctx_empty"],
            TARGET: base["ctx_concept"],
        }
        denoiser = PairDenoiser(hosts.diffusers_host(vct_set).model, texts)
        rows, visited = [], []
        denoiser.model.unet.conv_in.register_forward_pre_hook(lambda _, x: rows.append(len(x[0])))
        run = ControlledRun(self.fusion, self.pivots.levels, denoiser.layers)
        last = sample_pair(denoiser, run, self.pivots.trajectory[0], lambda step: visited.append(step["x"]))
        return [*visited, last], rows

    def _in_comfy(self, vct_set):
        from comfyui_exemplar.diffusion.sampling import sample_ddim
        from comfyui_exemplar.hosts.comfy import sampling
        from comfyui_exemplar.hosts.comfy.vct_control import pair_guider

        base, model = vct_set.file("base"), hosts.comfy_model(vct_set)
        prompts = [[[base[name], {}]] for name in ("ctx_concept", "ctx_empty", "ctx_empty")]
        guider = pair_guider(model, self.fusion, *prompts, both=True)
        rows, visited = [], []
        first = model.model.diffusion_model.input_blocks[0][0]
        first.register_forward_pre_hook(lambda _, x: rows.append(len(x[0])))

        def sampler(denoiser, x, sigmas, extra_args=None, callback=None, disable=None):
            seen = lambda step: (visited.append(step["x"]), callback(step))  # noqa: E731
            return sample_ddim(denoiser, x, sigmas, extra_args, seen, disable)

        last = sampling.run_sampler(guider, self.pivots.trajectory[0], sampler, torch.tensor(self.pivots.levels), None)
        return [*visited, last], rows


@cases("g4")
@pytest.mark.parametrize("replayed", [True, False])
def test_fusion(vct_set, case, replayed):
    """Every latent of both streams; with a replay the source's is what was kept, and 3 rows run instead of 4."""
    run = run_of(vct_set, case, replayed)
    visited, rows = run.sample(vct_set)
    assert rows == [3 if replayed else 4] * run.meta["num_steps"]
    for x, sigma, recorded in zip(visited, run.pivots.levels, run.recorded["latents"], strict=True):
        variance_preserving = x / (1 + sigma**2) ** 0.5
        wanted = recorded.flip(0)[: len(x)]  # target first
        assert float((variance_preserving - wanted).abs().max()) <= LATENTS, sigma


@cases("g4")
def test_without_control(vct_set, case):
    run = run_of(vct_set, case, True, controlled=False)
    if "latents_nocontrol" not in run.recorded:
        pytest.skip("this case was not recorded without control")
    visited, _ = run.sample(vct_set)
    found = visited[-1] / (1 + run.pivots.levels[-1] ** 2) ** 0.5
    assert float((found - run.recorded["latents_nocontrol"][-1, 1:]).abs().max()) <= LATENTS


@cases("g4")
def test_maps_of_the_middle_block(vct_set, case, monkeypatch):
    """Maps before and after editing at every recorded step, of both conditional rows."""
    run = run_of(vct_set, case, True)
    if "mid_self_pre" not in run.recorded:
        pytest.skip("this case has no maps")
    middle, seen = Layer("middle", 0), {CROSS: [], SELF: []}
    original, edit_map = ControlledAttention.__call__, PromptControl.edit_map

    def watch(edit, call, earlier):
        if call.layer != middle:
            return original(edit, call, earlier)
        target, source = call.rows_of(TARGET)[0], call.rows_of(SOURCE)[0]
        before = attention_map(call.q, call.k, call.heads)
        after = [before[target]]

        def used(inner):
            if inner.q.shape == call.q.shape:
                after.append(attention_map(inner.q, inner.k, call.heads)[target])
            return earlier(inner)

        def edited(control, source_map, target_map, step, steps):
            after.append(edit_map(control, source_map, target_map, step, steps)[0])
            return after[-1][None]

        monkeypatch.setattr(PromptControl, "edit_map", edited)
        out = original(edit, call, used)
        monkeypatch.setattr(PromptControl, "edit_map", edit_map)
        seen[call.kind].append((before[source], before[target], after[-1]))
        return out

    monkeypatch.setattr(ControlledAttention, "__call__", watch)
    run.sample(vct_set)
    for kind, name in ((SELF, "self"), (CROSS, "cross")):
        assert len(seen[kind]) == run.meta["num_steps"]
        recorded = zip(run.recorded[f"mid_{name}_pre"], run.recorded[f"mid_{name}_post"], strict=True)
        for (source, target, after), (pre, post) in zip(seen[kind], recorded, strict=False):
            pre, post = (maps.unflatten(0, (4, -1)) for maps in (pre, post))
            for found, wanted in ((source, pre[2]), (target, pre[3]), (after, post[3])):
                assert float((found - wanted).abs().max()) <= MID_MAPS
