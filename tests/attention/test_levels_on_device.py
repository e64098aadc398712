"""That a run has one level of features on its device at a time, sent in one go, and none when it is over.

What lives there is counted in bytes, on a device that is not there.
"""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.call import AttentionCall
from comfyui_exemplar.attention.dual import DualAttentionColor
from comfyui_exemplar.attention.dual_banks import ROLES, DualBanks
from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.attention.fused import sdpa
from comfyui_exemplar.attention.levels_on_device import LevelReader
from comfyui_exemplar.color.batches import let_go

from ..fixtures.pretended_gpu import DEVICE, MEMORY, UPLOAD, PretendedGPU, from_gpu, to_gpu
from . import naive
from .dual_edit import FIXED, FULL, HEADS, KEYS, LAYERS, TOKENS, banks, call

CPU = torch.device("cpu")
SIGMAS = (4.0, 2.0, 1.0)


def there(asked):
    return dataclasses.replace(asked, **{name: to_gpu(getattr(asked, name)) for name in "qkv"})


def reading(settings, three, *masks, precomputed=False):
    edit = DualAttentionColor(settings, LAYERS, DualBanks(*three), *masks)
    if precomputed:
        with PretendedGPU():
            edit.precompute(HEADS, sdpa, DEVICE)
    return edit


#: Of a level that reads everything: q and k of the input, k and v of the reference and k of the gray one, two layers.
READ = 2 * naive.WIDTH * 4 * (2 * TOKENS + 3 * KEYS)
#: Of a level whose outputs are all known.
KNOWN = 2 * naive.WIDTH * 4 * TOKENS
HALF = dataclasses.replace(FULL, gamma_deep=1.0, beta_deep=0.0)
MASKS = (torch.ones(1, 4, 6), torch.cat([torch.ones(1, 4, 2), torch.zeros(1, 4, 2)], 2))


class TestRun:
    @pytest.mark.parametrize("masks", [(), MASKS], ids=["whole", "masked"])
    @pytest.mark.parametrize(
        ("settings", "precomputed", "level"),
        [
            (FULL, True, READ),
            (FIXED, True, KNOWN),
            (FIXED, False, 2 * naive.WIDTH * 4 * (TOKENS + 2 * KEYS)),
            (HALF, True, (READ + KNOWN) // 2),
        ],
        ids=["everything", "known", "not known yet", "half of it known"],
    )
    def test_a_level_at_a_time(self, lives, settings, precomputed, level, masks):
        edit = reading(settings, banks(sigmas=SIGMAS), *masks, precomputed=precomputed)
        wanted = reading(settings, banks(sigmas=SIGMAS), *masks)
        with PretendedGPU() as gpu:
            assert edit.holds(DEVICE) == level and edit.holds(torch.device("cpu")) == 0
            for sigma in SIGMAS:
                first, uploads = len(gpu.events), []
                for again in range(3):
                    for layer in LAYERS:
                        asked = call(layer, sigma=sigma, branches=(1, 0), seed=again)
                        found = from_gpu(edit(there(asked), AttentionCall.plain))
                        expected = wanted(asked, AttentionCall.plain)
                        assert float((found - expected).abs().max()) < 1e-6
                    uploads.append(gpu.events[first:])
                sent = [event for event in uploads[0] if event.place.startswith("attention/levels_on_device.py")]
                assert {event.kind for event in uploads[0]} == {UPLOAD}
                assert sum(event.size for event in sent) == level and len({event.place for event in sent}) == 1
                assert len(uploads[2]) == len(uploads[0]), "nothing is sent in further calls at a level"
                if sigma != SIGMAS[0]:
                    assert len(sent) == len(uploads[0]), "masks are there by now"
                constants = 0 if not masks else lives()[0] - level
                assert lives()[0] == level + constants and constants < 200
            edit.forget()
            assert lives()[0] == 0

    def test_the_old_level_goes_before_the_new_one_comes(self, lives):
        edit = reading(FIXED, banks(sigmas=SIGMAS), precomputed=True)
        with PretendedGPU():
            for sigma in SIGMAS:
                asked = there(call(sigma=sigma))
                own = lives()[0]
                MEMORY.reset()
                del own
                edit(asked, AttentionCall.plain)
                del asked
            MEMORY.reset()
            start = lives()[0]
            assert start == KNOWN
            asked = there(call(sigma=SIGMAS[0]))
            of_call = lives()[0] - start
            edit(asked, AttentionCall.plain)
            # beside the level and the call only what the edit returns, which is a copy
            assert lives()[1] <= KNOWN + of_call + KNOWN // 2

    def test_an_inversion_on_two_sockets_goes_once(self, lives):
        """A reference without colors needs no gray version: its k serves both."""
        source, reference, _ = banks(sigmas=SIGMAS)
        edit = reading(FULL, (source, reference, reference))
        with PretendedGPU() as gpu:
            edit(there(call(sigma=SIGMAS[0])), AttentionCall.plain)
        once = READ - 2 * naive.WIDTH * 4 * KEYS
        assert edit.holds(DEVICE) == once == lives()[0] == sum(event.size for event in gpu.events)

    def test_between_two_levels_the_nearer_one(self, lives):
        edit = reading(FULL, banks(sigmas=SIGMAS))
        with PretendedGPU() as gpu:
            for sigma in (3.9, 4.0, 9.0, 3.0, 2.5, 2.0):
                edit(there(call(sigma=sigma)), AttentionCall.plain)
            assert len(gpu.events) == 2 * 10  # levels 4 and 2
            assert lives()[0] == READ

    def test_a_run_is_over(self, lives):
        """What was forgotten is sent anew by the next run."""
        edit = reading(FULL, banks())
        with PretendedGPU() as gpu:
            for run in (1, 2):
                edit(there(call()), AttentionCall.plain)
                edit.forget()
                assert lives()[0] == 0 and len(gpu.events) == run * 10

    def test_a_level_that_does_not_fit(self, lives, monkeypatch):
        """Nothing of it is left behind, and the next call tries again."""
        edit, moves = reading(FULL, banks()), torch.Tensor.to
        sent = []

        def to(tensor, *args, **kw):
            if args == (DEVICE,) and len(sent) == 5:
                raise torch.OutOfMemoryError("no room")
            sent.append(args)
            return moves(tensor, *args, **kw)

        asked = there(call())
        own = lives()[0]
        with PretendedGPU():
            with monkeypatch.context() as patch:
                patch.setattr(torch.Tensor, "to", to)
                with pytest.raises(torch.OutOfMemoryError) as failed:
                    edit(asked, AttentionCall.plain)
            let_go(failed.value)
            assert lives()[0] == own
            edit(asked, AttentionCall.plain)
            assert lives()[0] == own + READ
        edit.forget()

    def test_levels_out_of_the_window_do_not_count(self):
        sizes = banks(sigmas=(4.0, 2.0))
        settings = dataclasses.replace(FULL, start=0.0, end=0.5)
        assert reading(settings, sizes).holds(DEVICE) == READ
        assert reading(dataclasses.replace(settings, start=0.5), sizes).holds(DEVICE) == 0


class TestOnOneDevice:
    def test_nothing_is_copied(self, lives):
        """Kept tensors are handed to attention themselves."""
        three = banks()
        edit = reading(dataclasses.replace(FIXED, mix="after softmax"), three)
        given = []
        asked = dataclasses.replace(
            call(), attend=lambda q, k, v, heads: given.append((q, k, v)) or sdpa(q, k, v, heads)
        )
        edit(asked, AttentionCall.plain)
        found = [tensor.data_ptr() for tensor in given[0]]
        kept = [three[i].get(1.0, naive.LAYER, letter).data_ptr() for i, letter in ((0, "q"), (2, "k"), (1, "v"))]
        assert found == kept and lives() == (0, 0)

    def test_on_the_device_nothing_is_sent(self, lives):
        three = [bank.moved(DEVICE) for bank in in_there(banks(sigmas=SIGMAS))]
        own = lives()[0]
        edit = reading(FULL, three)
        with PretendedGPU() as gpu:
            assert edit.holds(DEVICE) == 0 and edit.holds(torch.device(DEVICE.type)) == 0
            for sigma in SIGMAS:
                edit(there(call(sigma=sigma)), AttentionCall.plain)
            assert not gpu.events and lives()[0] == own
            half = there(call())
            half = dataclasses.replace(half, **{name: getattr(half, name).half() for name in "qkv"})
            found = edit(half, AttentionCall.plain)
        assert found.dtype == torch.float16 and not gpu.events


def in_there(three):
    made = []
    for bank in three:
        moved = FeatureBank()
        for sigma, layer, name, tensor in bank.items():
            moved.put(sigma, layer, bank.grid(layer), **{name: to_gpu(tensor)})
        made.append(moved)
    return made


class TestKnownOutputs:
    """γ = 1 and β = 0: computed on the device, kept where the features are, which the edit lets go of."""

    @pytest.mark.parametrize("where", [CPU, DEVICE], ids=str)
    def test_where_they_are_kept(self, lives, where):
        three = banks(2, 2, sigmas=SIGMAS)
        three = three if where == CPU else in_there(three)
        own, begun = lives()[0], []
        output = 2 * TOKENS * naive.WIDTH * 4
        stays = 0 if where == CPU else output

        def attend(q, k, v, heads):
            """A layer at a level at a time: beside what is kept, its q, k and v are all there is."""
            here = 0 if where == DEVICE else 4 * (q.numel() + k.numel() + v.numel())
            begun.append(tuple(held - own - here for held in lives()))
            MEMORY.reset()
            return q + 0

        with PretendedGPU() as gpu:
            edit = reading(FIXED, three)
            edit.precompute(HEADS, attend, DEVICE)
            assert all(tensor.device == where for tensor in edit._fixed.values()) and len(edit._fixed) == 6
            assert begun == [(i * stays, max(i * stays, output) if i else 0) for i in range(6)]
            assert lives()[0] == own + 6 * stays
            assert len(gpu.events) == (6 * 4 if where == CPU else 0)
        del edit

    def test_features_are_let_go(self):
        three = banks(sigmas=SIGMAS)
        edit = reading(HALF, three)
        before = [bank.nbytes for bank in three]
        assert edit.banks.source.layers == tuple(sorted(LAYERS))
        edit.precompute(HEADS)
        for role in ROLES:
            assert edit.banks.of(role).layers == (naive.LAYER,)
        assert [bank.nbytes for bank in three] == before, "those of others stay"
        edit = reading(FIXED, three, precomputed=False)
        edit.precompute(HEADS)
        assert not any(edit.banks.of(role).nbytes for role in ROLES)

    def test_only_what_is_read_is_held(self):
        edit = reading(FULL, banks())
        letters = {role: {name for _, _, name, _ in edit.banks.of(role).items()} for role in ROLES}
        assert letters == {"input": {"q", "k"}, "reference": {"k", "v"}, "gray": {"k"}}

    def test_what_is_asked_of_the_edit_later(self):
        three = banks(3, 1, sigmas=SIGMAS)
        edit = reading(FIXED, three)
        edit.precompute(HEADS)
        edit.precompute(HEADS)  # nothing is left to do
        assert edit.pictures == 3 and edit.sigmas == SIGMAS
        assert edit.misfit(call(batch=3)) is None
        assert "3 x 2 tokens" in edit.misfit(dataclasses.replace(call(batch=3), grid=(3, 2)))
        assert edit.active(4.0) and edit.active(0.0)

    def test_inputs_that_do_not_enter_still_count(self):
        settings = DualAttentionSettings(0.0, 0.0, 0.0, 0.0)
        edit = reading(settings, banks(3, 1))
        assert edit.pictures == 3 and not edit.banks.source.pictures
        assert edit.misfit(dataclasses.replace(call(), grid=(1, 2))) is None

    @pytest.mark.parametrize("order", [SIGMAS, SIGMAS[::-1]], ids=["down", "up"])
    def test_of_two_equally_near_levels_the_one_that_was_kept_first(self, order):
        """As it was before anything was let go."""
        three = banks(sigmas=order)
        sigma = 2.0**0.5  # as far from 1 as from 2
        nearest = three[1].nearest(sigma)
        for settings in (FULL, FIXED):
            edit = reading(settings, three)
            edit.precompute(HEADS)
            found = edit(call(sigma=sigma), AttentionCall.plain)
            assert torch.equal(found, reading(settings, three)(call(sigma=nearest), AttentionCall.plain))

    def test_memory_runs_out(self, lives):
        """Half as many pictures the next time; what the failed ones had is gone by then."""
        begun = []

        def attend(q, k, v, heads):
            begun.append((len(q), lives()[0] - 4 * (q.numel() + k.numel() + v.numel())))
            if len(q) > 1:
                raise torch.OutOfMemoryError("no room")
            return sdpa(q, k, v, heads)

        with PretendedGPU():
            edit = reading(FIXED, banks(2, 2))
            edit.precompute(HEADS, attend, DEVICE)
        assert [rows for rows, _ in begun] == [2, 1, 1, 1, 1] and not any(held for _, held in begun)
        wanted = reading(FIXED, banks(2, 2))
        found = [one(call(batch=2), AttentionCall.plain) for one in (edit, wanted)]
        assert float((found[0] - found[1]).abs().max()) < 1e-6


def test_every_device_has_a_level_of_its_own(lives):
    """A host that runs halves of a batch on two devices does not send anything twice."""
    reader = LevelReader(lambda level: {"a": torch.full((2,), level)})
    with PretendedGPU() as gpu:
        for _ in range(3):
            for device in (DEVICE, CPU):
                assert from_gpu(reader.read(1.0, device, "a")).tolist() == [1.0, 1.0]
        assert len(gpu.events) == 1
        reader.forget()
