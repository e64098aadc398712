"""Feature banks: what is kept, what is nearest, and which rows a picture gets."""

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank, pick_rows
from comfyui_exemplar.attention.layers import Layer

from ..fixtures.pretended_gpu import DEVICE, DOWNLOAD, MEMORY, UPLOAD, PretendedGPU, to_gpu
from . import naive

DEEP = Layer("output", 0, 1)


class TestNearest:
    BANK = naive.bank(sigmas=(0.1, 1.0, 10.0))

    @pytest.mark.parametrize(
        "asked, kept",
        [(1.0, 1.0), (0.31, 0.1), (0.32, 1.0), (3.1, 1.0), (3.2, 10.0), (1e3, 10.0), (1e-9, 0.1), (0.0, 0.1)],
    )
    def test_on_a_logarithmic_scale(self, asked, kept):
        assert self.BANK.nearest(asked) == kept

    def test_a_kept_zero_is_nearest_to_zero(self):
        bank = naive.bank(sigmas=(0.1, 0.0))
        assert bank.nearest(0.0) == 0.0 and bank.nearest(0.1) == 0.1

    def test_an_empty_bank_has_none(self):
        with pytest.raises(LookupError, match="kept no features"):
            FeatureBank().nearest(1.0)


class TestContents:
    def test_sizes_and_names(self):
        bank = naive.bank(
            pictures=3, tokens=6, sigmas=(0.5, 2.0, 1.0), layers=(naive.LAYER, DEEP), letters="qv", grid=(2, 3)
        )
        assert bank.sigmas == (2.0, 1.0, 0.5)
        assert bank.layers == (DEEP, naive.LAYER)
        assert bank.pictures == 3
        assert bank.grid(DEEP) == (2, 3)
        assert bank.nbytes == 3 * 2 * 2 * (3 * 6 * naive.WIDTH) * 4  # sigmas, layers, letters, float32
        assert bank.has(2.0, DEEP, "q") and not bank.has(2.0, DEEP, "k") and not bank.has(3.0, DEEP, "q")

    def test_bytes_count_the_dtype(self):
        bank = FeatureBank()
        bank.put(1.0, DEEP, (1, 4), q=torch.zeros(1, 4, 8, dtype=torch.float16), v=torch.zeros(1, 4, 8))
        assert bank.nbytes == 32 * 2 + 32 * 4

    def test_an_empty_bank(self):
        bank = FeatureBank()
        assert (bank.sigmas, bank.layers, bank.pictures, bank.nbytes) == ((), (), 0, 0)

    def test_the_latest_put_stays(self):
        bank = naive.bank()
        new = torch.zeros(1, 6, naive.WIDTH)
        bank.put(1.0, naive.LAYER, (1, 6), q=new)
        assert torch.equal(bank.get(1.0, naive.LAYER, "q"), new)
        assert bank.get(1.0, naive.LAYER, "v").abs().sum() > 0

    def test_what_was_not_kept_is_named_beside_what_was(self):
        bank = naive.bank(layers=(naive.LAYER, DEEP), letters="vk")
        for sigma, layer, letter in ((1.0, DEEP, "q"), (0.7, DEEP, "k"), (1.0, Layer("input", 4), "k")):
            with pytest.raises(LookupError) as error:
                bank.get(sigma, layer, letter)
            message = str(error.value)
            assert f"No '{letter}' of {layer.name} was kept at sigma {sigma:.4f}" in message
            assert "output.0.1 (kv), output.1 (kv)" in message
        with pytest.raises(LookupError, match="this inversion kept nothing"):
            FeatureBank().get(1.0, DEEP, "q")


class TestTake:
    BANK = naive.bank(pictures=4, sigmas=(1.0, 2.0), grid=(2, 3))

    def whole(self, sigma=1.0, letter="k"):
        return self.BANK.get(sigma, naive.LAYER, letter)

    @pytest.mark.parametrize("wanted", [[1, 2], [3], [0, 1, 2, 3], [2, 0], [1, 1, 3]])
    def test_pictures_in_the_order_given(self, wanted):
        taken = self.BANK.take(wanted)
        assert taken.pictures == len(wanted) and taken.grid(naive.LAYER) == (2, 3)
        for sigma in (1.0, 2.0):
            for letter in "qkv":
                assert torch.equal(taken.get(sigma, naive.LAYER, letter), self.whole(sigma, letter)[wanted])

    def test_a_run_shares_memory_and_a_choice_does_not(self):
        whole = self.whole()
        run = self.BANK.take(range(1, 3)).get(1.0, naive.LAYER, "k")
        assert run.data_ptr() == whole[1].data_ptr()
        choice = self.BANK.take([2, 0]).get(1.0, naive.LAYER, "k")
        assert choice.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()

    def test_the_bank_stays_as_it_is(self):
        before = [tensor.clone() for *_, tensor in self.BANK.items()]
        taken = self.BANK.take([0])
        taken.put(5.0, DEEP, (1, 1), q=torch.zeros(1, 1, 8))
        assert self.BANK.sigmas == (2.0, 1.0) and self.BANK.layers == (naive.LAYER,)
        assert all(map(torch.equal, before, (tensor for *_, tensor in self.BANK.items())))


def in_there(bank):
    made = FeatureBank()
    for sigma, layer, name, tensor in bank.items():
        made.put(sigma, layer, bank.grid(layer), **{name: to_gpu(tensor)})
    return made


class TestOnly:
    BANK = naive.bank(2, sigmas=(1.0, 2.0), layers=(naive.LAYER, DEEP), grid=(2, 3))

    def test_some_projections(self):
        part = self.BANK.only({naive.LAYER: "vq", DEEP: "", Layer("input", 7): "k"})
        assert {(at, letter) for _, at, letter, _ in part.items()} == {(naive.LAYER, "q"), (naive.LAYER, "v")}
        assert part.levels == self.BANK.levels == (1.0, 2.0) and part.sigmas == (2.0, 1.0)
        assert part.layers == (naive.LAYER,) and part.grid(naive.LAYER) == (2, 3) and part.pictures == 2
        assert all(tensor is self.BANK.get(s, at, letter) for s, at, letter, tensor in part.items())

    def test_what_was_never_kept_stays_missing(self):
        part = naive.bank(letters="k").only({naive.LAYER: "qk"})
        assert part.has(1.0, naive.LAYER, "k") and not part.has(1.0, naive.LAYER, "q")

    def test_nothing(self):
        part = self.BANK.only({})
        assert (part.sigmas, part.layers, part.pictures, part.device) == ((), (), 0, None)


class TestMoved:
    def test_there_already(self):
        bank, empty = naive.bank(), FeatureBank()
        assert bank.moved(torch.device("cpu")) is bank and empty.moved(DEVICE) is empty
        assert bank.device == torch.device("cpu") and empty.device is None

    def test_there_and_back(self):
        bank = naive.bank(2, sigmas=(1.0, 2.0), layers=(naive.LAYER, DEEP), grid=(2, 3))
        with PretendedGPU() as gpu:
            there = bank.moved(DEVICE)
            assert len({event.place for event in gpu.events}) == 1, "one line for all"
            assert there.device == DEVICE and there.moved(torch.device(DEVICE.type)) is there
            back = there.moved(torch.device("cpu"))
        assert [event.kind for event in gpu.events] == [UPLOAD] * 12 + [DOWNLOAD] * 12
        assert (back.levels, back.layers, back.grid(DEEP)) == (bank.levels, bank.layers, (2, 3))
        assert all(torch.equal(back.get(s, at, letter), tensor) for s, at, letter, tensor in bank.items())

    def test_what_is_there_stays_itself(self):
        kept = to_gpu(naive.rand(1, 6, naive.WIDTH))
        bank = FeatureBank()
        bank.put(1.0, DEEP, (1, 6), q=kept, k=naive.rand(1, 6, naive.WIDTH))
        assert bank.device is None
        with PretendedGPU() as gpu:
            moved = bank.moved(DEVICE)
        assert moved.get(1.0, DEEP, "q") is kept and moved.device == DEVICE and len(gpu.events) == 1

    def test_a_view_goes_without_the_rest_of_its_batch(self):
        before = MEMORY.now
        bank = naive.bank(4).take([2])
        with PretendedGPU():
            there = bank.moved(DEVICE)
            assert MEMORY.now - before == there.nbytes == bank.nbytes


class TestCompact:
    def test_parts_of_a_batch_leave_the_rest(self):
        whole = naive.bank(4, grid=(2, 3))
        part = whole.take([1, 2])
        own = part.compact()
        for sigma, layer, name, tensor in own.items():
            assert torch.equal(tensor, part.get(sigma, layer, name))
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert own.pictures == 2 and own.grid(naive.LAYER) == (2, 3)

    def test_a_whole_one_is_itself(self):
        whole = naive.bank(4)
        assert whole.compact() is whole and FeatureBank().compact().pictures == 0
        there = in_there(whole)
        with PretendedGPU():
            assert there.compact() is there


class TestPickRows:
    def test_one_picture_serves_all_without_a_copy(self):
        kept = naive.rand(1, 5, 3)
        picked = pick_rows(kept, (0, 1, 2))
        assert torch.equal(picked, kept.repeat(3, 1, 1)) and picked.data_ptr() == kept.data_ptr()

    def test_picture_i_takes_row_i(self):
        kept = naive.rand(3, 5, 3)
        assert pick_rows(kept, (0, 1, 2)) is kept
        for pictures in ((2, 0, 1), (1,), (0, 0, 2, 2), (0, 1, 2, 0, 1, 2)):
            assert torch.equal(pick_rows(kept, pictures), kept[list(pictures)])

    def test_a_repeated_latent_batch_starts_over(self):
        kept = naive.rand(2, 5, 3)
        assert torch.equal(pick_rows(kept, (0, 1, 2, 3, 4)), kept[[0, 1, 0, 1, 0]])


def test_banks_of_parts_of_a_batch_join():
    from comfyui_exemplar.attention.bank import joined_banks

    whole = FeatureBank()
    layers = (Layer("output", 3, 0), Layer("output", 4, 0))
    for sigma in (1.0, 0.5):
        for layer in layers:
            whole.put(sigma, layer, (2, 3), q=torch.rand(5, 6, 4), k=torch.rand(5, 6, 4))
    joined = joined_banks([whole.take(range(2)), whole.take(range(2, 5))])
    assert joined.pictures == 5 and joined.sigmas == whole.sigmas and joined.layers == whole.layers
    assert all(torch.equal(joined.get(s, layer, n), tensor) for s, layer, n, tensor in whole.items())
    assert joined.grid(layers[0]) == (2, 3) and joined_banks([whole]) is whole
    assert joined_banks([FeatureBank(), FeatureBank()]).pictures == 0
