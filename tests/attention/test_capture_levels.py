"""That a climb which keeps features elsewhere has one level of them on the device at a time.

What lives there is counted in bytes, on a device that is not there.
"""

import dataclasses
import weakref

import pytest
import torch

from comfyui_exemplar.attention.call import AttentionCall
from comfyui_exemplar.attention.capture import Capture, CaptureSpec, CaptureTarget
from comfyui_exemplar.color.batches import freed, in_batches, let_go

from ..fixtures.pretended_gpu import DEVICE, DOWNLOAD, MEMORY, PretendedGPU, from_gpu, to_gpu
from . import naive
from .dual_edit import DEEP, LAYERS

CPU = torch.device("cpu")
SIGMAS = (4.0, 2.0, 1.0)
#: Bytes of one projection of one picture and layer.
ONE = 6 * naive.WIDTH * 4


def there(asked):
    return dataclasses.replace(asked, **{name: to_gpu(getattr(asked, name)) for name in "qkv"})


class Climb:
    """An inversion of two pictures with two layers, call by call; its own tensors are gone after each call."""

    def __init__(self, *specs, sigmas=SIGMAS[::-1], **how):
        self.targets = [CaptureTarget(CaptureSpec(dict.fromkeys(LAYERS, "qkv"), device=CPU), **how)]
        if specs:
            self.targets = [CaptureTarget(spec, pictures=range(i, i + 1)) for i, spec in enumerate(specs)]
        self.capture, self.prediction = Capture(self.targets, sigmas), 0

    def level(self, sigma, seed=0):
        self.prediction += 1
        for layer in LAYERS:
            asked = naive.call(layer=layer, sigma=sigma, batch=2, branches=(1, 0), seed=seed, grid=(2, 3))
            self.capture(there(dataclasses.replace(asked, prediction=self.prediction)), lambda asked: asked.q)


#: Of one level of both pictures: layers times letters.
LEVEL = 2 * 6 * ONE
#: What a call brings along: q, k, v of four rows.
CALL = 3 * 4 * ONE


class TestClimb:
    def test_a_level_at_a_time(self, lives):
        climb = Climb()
        with PretendedGPU() as gpu:
            for done, sigma in enumerate(SIGMAS[::-1]):
                climb.level(sigma)
                assert lives()[0] == LEVEL
                assert [event.kind for event in gpu.events] == [DOWNLOAD] * 6 * done
            climb.capture.finish()
            assert lives()[0] == 0
            climb.capture.finish()  # nothing is left to do
        assert lives()[1] <= LEVEL + CALL
        assert len(gpu.events) == 18 and len({event.place for event in gpu.events}) == 1, "one line for all"
        climb.capture.check(2)
        assert climb.targets[0].bank.device == CPU and climb.targets[0].bank.levels == SIGMAS[::-1]

    def test_the_old_level_goes_before_the_new_one_comes(self, lives):
        climb = Climb()
        with PretendedGPU():
            climb.level(1.0)
            MEMORY.reset()
            asked = there(naive.call(sigma=2.0, batch=2, grid=(2, 3)))
            call_s = lives()[0] - LEVEL
            climb.capture(asked, lambda asked: asked.q)
            assert lives() == (call_s + 6 * ONE, LEVEL + call_s)

    @pytest.mark.parametrize("dtype", [None, torch.float16])
    def test_the_same_features(self, dtype):
        spec = CaptureSpec({naive.LAYER: "qkv", DEEP: "k"}, dtype)
        whole = [dataclasses.replace(spec, device=device) for device in (None, CPU)]
        climb, on_cpu = Climb(*whole), Climb(whole[0], whole[0])
        with PretendedGPU():
            for sigma in SIGMAS:
                climb.level(sigma, seed=int(sigma))
            climb.capture.finish()
            climb.capture.check(1)
            for number, target in enumerate(climb.targets):
                assert target.bank.device == (DEVICE, CPU)[number]
        for sigma in SIGMAS:
            for layer in LAYERS:
                asked = naive.call(layer=layer, sigma=sigma, batch=2, branches=(1, 0), seed=int(sigma), grid=(2, 3))
                on_cpu.capture(asked, AttentionCall.plain)
        for one, other in zip(climb.targets, on_cpu.targets, strict=True):
            found = list(one.bank.items())
            assert len(found) == 3 * 4
            for s, layer, letter, tensor in found:
                assert torch.equal(from_gpu(tensor), other.bank.get(s, layer, letter))

    def test_a_refinement_takes_the_room_of_what_it_replaces(self, lives):
        climb = Climb()
        with PretendedGPU() as gpu:
            for seed in range(3):
                climb.level(1.0, seed=10 * seed)
                assert lives()[0] == LEVEL and not gpu.events
            assert lives()[1] <= LEVEL + CALL
            climb.capture.finish()
        asked = naive.call(sigma=1.0, batch=2, branches=(1, 0), seed=20)
        assert torch.equal(climb.targets[0].bank.get(1.0, naive.LAYER, "q"), asked.q[2:])

    def test_a_level_that_is_not_kept_is_another_level(self, lives):
        climb = Climb(sigmas=(1.0,))
        with PretendedGPU():
            climb.level(1.0)
            climb.level(2.0)
            assert lives()[0] == 0 and climb.targets[0].bank.pictures == 2

    def test_a_level_that_comes_again(self, lives):
        climb = Climb()
        with PretendedGPU():
            for seed, sigma in enumerate((1.0, 2.0, 1.0)):
                climb.level(sigma, seed=10 * seed)
            climb.capture.finish()
        asked = naive.call(sigma=1.0, batch=2, branches=(1, 0), seed=20)
        assert torch.equal(climb.targets[0].bank.get(1.0, naive.LAYER, "q"), asked.q[2:])
        assert lives()[1] <= LEVEL + CALL

    def test_what_is_kept_is_no_view(self, lives):
        """One of two pictures, the conditional rows of four: neither the other's nor the rest is kept alive."""
        climb = Climb(CaptureSpec({naive.LAYER: "q"}, device=CPU), CaptureSpec({naive.LAYER: "k"}))
        with PretendedGPU():
            climb.level(1.0)
            assert lives()[0] == 2 * ONE
            climb.capture.finish()
            assert lives()[0] == ONE
        for target in climb.targets:
            for tensor in map(from_gpu, target.bank.tensors):
                assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()

    def test_a_climb_that_fails(self, lives):
        """Nothing of it is left when its error is dealt with, and nothing of it moved."""
        banks = []

        def work():
            climb = Climb()
            banks.append(climb.targets[0].bank)
            climb.level(1.0)
            climb.level(2.0)
            raise RuntimeError("out of memory")

        with PretendedGPU():
            try:
                work()
            except RuntimeError as error:
                let_go(error)
                assert lives()[0] == 0
        assert banks[0].sigmas == (1.0,)

    def test_memory_runs_out_in_the_middle(self, lives):
        """The failed half is gone when the next try begins: from the device, and from main memory."""
        begun, whole = [], []

        def work(part):
            begun.append(lives()[0])
            climb = Climb(*[CaptureSpec({naive.LAYER: "qkv"}, device=d) for d in (None, CPU)])
            whole.append([weakref.ref(target.bank) for target in climb.targets])
            for sigma in SIGMAS:
                climb.level(sigma)
                if part.stop - part.start > 1 and sigma == 2.0:
                    raise torch.OutOfMemoryError("no room")
            climb.capture.finish()
            return [target.bank for target in climb.targets]

        with PretendedGPU():
            made = [banks for _, banks in in_batches(2, 2, work, freed)]
            assert begun == [0, 0, 3 * 3 * ONE]  # the last one beside what the first half keeps on the device
        assert len(made) == 2 and all(bank() is None for bank in whole[0])
        del made
