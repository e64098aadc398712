"""That ComfyUI, when it makes room for a model, makes room for what the model's edits will hold as well."""

import comfy.model_management as mm
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import pytest
import torch

from comfyui_exemplar.attention.call import CROSS
from comfyui_exemplar.attention.capture import Capture, CaptureSpec, CaptureTarget
from comfyui_exemplar.attention.logits import LogitCache
from comfyui_exemplar.hosts.comfy import lcad_instances
from comfyui_exemplar.hosts.comfy.edits import PlacedEdit, add_edit
from comfyui_exemplar.hosts.comfy.model import attention_layers
from comfyui_exemplar.hosts.comfy.room import place_features, room_for_features

from . import models
from .sampling import run_guider

#: Bytes that a model with a known need takes, for every row.
ROW = 1000
GPU = torch.device("meta")


@pytest.fixture
def asked(embedded, monkeypatch):
    """(memory, least memory) of every time that ComfyUI loads models, the embedded one with a known need."""
    times, load = [], mm.load_models_gpu

    def loaded(patchers, memory_required=0, *args, minimum_memory_required=None, **kw):
        if minimum_memory_required is not None:  # for a sampling
            times.append((memory_required, minimum_memory_required))
        return load(patchers, memory_required, *args, minimum_memory_required=minimum_memory_required, **kw)

    monkeypatch.setattr(mm, "load_models_gpu", loaded)
    monkeypatch.setattr(embedded[0].model, "memory_required", lambda input_shape, **_: ROW * input_shape[0])
    return times


def sample(model, empty, pictures=1):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(empty, empty)
    guider.set_cfg(3.0)
    latent = torch.ones(pictures, 4, 16, 16)
    run_guider(guider, {"samples": latent}, torch.tensor([2.0, 0.0]))
    return guider


def bytes_of(*tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def holding(model, *amounts):
    for number, amount in enumerate(amounts):
        model = add_edit(model, PlacedEdit(f"edit {number}", holds=None if amount is None else lambda *_, a=amount: a))
    return model


@pytest.mark.parametrize("amounts", [(), (None,), (0,)])
def test_nothing_more_for_nothing(asked, embedded, amounts):
    sample(holding(embedded[0], *amounts), embedded[3])
    assert asked == [(2 * ROW, ROW)]


@pytest.mark.parametrize("pictures", [1, 3])
def test_as_much_as_is_held(asked, embedded, pictures):
    """Beside the activations of both rows of guidance, and of one, where weights may be loaded partly."""
    sample(holding(embedded[0], 400, 77), embedded[3], pictures)
    assert asked == [(2 * pictures * ROW + 477, pictures * ROW + 477)]


def test_what_is_held_depends_on_the_latents(asked, embedded):
    model = add_edit(embedded[0], PlacedEdit("edit", holds=lambda model, shape: 10 * shape[0] + shape[-1]))
    sample(model, embedded[3], 2)
    assert asked == [(4 * ROW + 36, 2 * ROW + 36)]


def test_context_windows_take_nothing_of_it(asked, embedded):
    """ComfyUI then counts the pictures of a window only."""
    kind = comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING

    def one_picture(executor, model, shape, *args, **kw):
        return executor(model, [1, *shape[1:]], *args, **kw)

    for inside in (False, True):
        model = embedded[0] if inside else holding(embedded[0], 500)
        model = model.clone()
        model.add_wrapper_with_key(kind, "windows", one_picture)
        sample(holding(model, 500) if inside else model, embedded[3], 4)
    assert asked == [(2 * ROW + 500, ROW + 500)] * 2


def test_no_prompt_is_seen_of_it(asked, embedded, monkeypatch):
    """What ComfyUI is told with goes no further than that."""
    seen, prepare = [], comfy.sampler_helpers.prepare_sampling

    def prepared(model, *args, **kw):
        made = prepare(model, *args, **kw)
        seen.append(made)
        return made

    monkeypatch.setattr(comfy.sampler_helpers, "prepare_sampling", prepared)
    sample(holding(embedded[0], 500), embedded[3])
    ((_, conds, loaded),) = seen
    assert set(conds) == {"positive", "negative"} and not loaded


def test_official_attention_of_lcad(asked, nodes, monkeypatch):
    """Queries and keys of every layer and row, from one call to the next."""
    caches = []

    class Watched(LogitCache):
        def __init__(self):
            super().__init__()
            self.most = 0
            caches.append(self)

        def keep(self, call):
            super().keep(call)
            self.most = max(self.most, sum(bytes_of(*pair) for each in self._kept.values() for pair in each.values()))
            if call.kind == CROSS:
                self.words = call.k.shape[1]

    monkeypatch.setattr(lcad_instances, "LogitCache", Watched)
    model, _, _, empty = nodes("ExemplarLoadDemoModel")
    monkeypatch.setattr(model.model, "memory_required", lambda input_shape, **_: ROW * input_shape[0])
    sample(lcad_instances.reuse_logits(model), empty, 2)
    ((most, least),) = asked
    assert most - 4 * ROW == least - 2 * ROW
    # prompts are taken for ones of usual length
    keys = 4 * (77 - caches[0].words) * 4 * sum(info.channels for info in attention_layers(model))
    assert least - 2 * ROW == caches[0].most + keys


class TestClimbs:
    """Where an inversion keeps features on a device that is not the main memory."""

    @pytest.fixture
    def model(self, monkeypatch):
        model = models.tiny("sd1")
        monkeypatch.setattr(model, "load_device", GPU)
        monkeypatch.setattr(model.model, "memory_required", lambda input_shape, **_: ROW * input_shape[0])
        return model

    def capture(self, model, letters="qkv", **spec):
        layers = {info.layer: letters for info in attention_layers(model)}
        return Capture([CaptureTarget(CaptureSpec(layers, **spec))])

    def placed(self, model, capture, free, monkeypatch, shape=(2, 4, 15, 18), levels=5):
        monkeypatch.setattr(mm, "get_free_memory", lambda *_: free)
        held = place_features(model, capture, shape, levels)
        return held, [target.spec.device for target in capture.targets]

    def size(self, model, letters=3):
        """Bytes at a level: sides are halved upward, 15 -> 8 -> 4 -> 2."""
        tokens = {1: 15 * 18, 2: 8 * 9, 4: 4 * 5, 8: 2 * 3}
        return sum(2 * letters * 4 * info.channels * tokens[info.downscale] for info in attention_layers(model))

    def test_on_the_device_where_there_is_room(self, model, monkeypatch):
        most, needed = 5 * self.size(model), model.model_size() + 4 * ROW
        free = needed + 4 * most
        assert room_for_features_at(model, free, monkeypatch) == most
        assert self.placed(model, self.capture(model), free, monkeypatch) == (most, [None])

    def test_a_level_at_a_time_where_there_is_none(self, model, monkeypatch):
        free = model.model_size() + 4 * ROW + 20 * self.size(model) - 8
        found = self.placed(model, self.capture(model), free, monkeypatch)
        assert found == (self.size(model), [torch.device("cpu")])

    def test_loaded_weights_count_once(self, model, monkeypatch):
        monkeypatch.setattr(model.model, "model_loaded_weight_memory", model.model_size())
        free = 4 * ROW + 20 * self.size(model)
        assert self.placed(model, self.capture(model), free, monkeypatch)[1] == [None]

    def test_in_main_memory_where_the_user_wants_it(self, model, monkeypatch):
        capture = self.capture(model, "qk", device=torch.device("cpu"), dtype=torch.float16)
        held = self.size(model, 2) // 2
        assert self.placed(model, capture, 1 << 40, monkeypatch) == (held, [torch.device("cpu")])

    def test_on_the_device_where_all_is_kept_there(self, model, monkeypatch):
        """Under ``--gpu-only``."""
        monkeypatch.setattr(mm, "intermediate_device", lambda: GPU)
        assert self.placed(model, self.capture(model), 0, monkeypatch) == (5 * self.size(model), [None])

    def test_nothing_is_said_of_a_cpu(self, embedded):
        capture = self.capture(embedded[0])
        assert place_features(embedded[0], capture, (1, 4, 16, 16), 4) == 0

    def test_a_picture_of_its_own_for_each_role(self, model, monkeypatch):
        layers = {info.layer: "k" for info in attention_layers(model)}
        targets = [CaptureTarget(CaptureSpec(layers), pictures=range(i, i + 1)) for i in range(2)]
        assert self.placed(model, Capture(targets), 0, monkeypatch)[0] == self.size(model, 1)


def room_for_features_at(model, free, monkeypatch):
    monkeypatch.setattr(mm, "get_free_memory", lambda *_: free)
    return room_for_features(model, (2, 4, 15, 18))


def test_a_climb_says_exactly_what_it_keeps(asked, nodes, embedded, monkeypatch):
    """On the CPU, whose memory is no device's, with a device that counts as one."""
    monkeypatch.setattr(mm, "is_device_cpu", lambda device: False)
    model, _, _, empty = embedded
    (marked,) = nodes("ExemplarAttentionCapture", model=model, layers="color", keep="input (q, k)")
    latent = {"samples": torch.ones(2, 4, 16, 16)}
    inputs = {"model": marked, "conditioning": empty, "latent": latent, "depth": 3, "measure_round_trip": False}
    inversion = nodes("ExemplarDDIMInversion", **inputs)[0]
    assert asked == [(4 * ROW + inversion.bank.nbytes, 2 * ROW + inversion.bank.nbytes)]


def test_prompt_control_says_what_sources_leave(asked, nodes, embedded):
    model, clip, _, empty = embedded
    texts = {"source": "red heart", "target": "blue heart", "negative": empty}
    (guider,) = nodes("ExemplarPromptControl", model=model, clip=clip, **texts, cross_ratio=1.0, self_ratio=1.0)
    run_guider(guider, {"samples": torch.ones(1, 4, 16, 16)}, torch.tensor([2.0, 0.0]))
    layers = attention_layers(model)
    tokens = {info: (16 // info.downscale) ** 2 for info in layers}
    followed = sum(4 * (2 * tokens[info] + tokens[info] + 77) * info.channels for info in layers)
    assert asked == [(4 * ROW + followed, 2 * ROW + followed)]
