"""DDColor's nodes under ComfyUI's model manager, and its pictures as reference and fallback of the others."""

import logging

import comfy.model_management
import folder_paths
import pytest
import torch

from comfyui_exemplar.color import ab_error, luminance, rgb_to_lab
from comfyui_exemplar.hosts.comfy import ddcolor as comfy_ddcolor
from comfyui_exemplar.hosts.comfy.folders import DDCOLOR
from comfyui_exemplar.networks.ddcolor.load import memory_of
from comfyui_exemplar.nodes.ddcolor import LoadDDColor

from ...fixtures.ddcolor import small_weights
from .sampling import Calls, difference

#: Exemplar Colorize in few and small steps; what is left out is the model's own.
FEW = {
    "guidance": 3.0,
    "passes": 1,
    "depth": 3,
    "resolution": 64,
    "match_chroma": 0.0,
    "match_latents": 0.0,
    "beta_shallow": 0.0,
}
WIDGETS = {"resolution": 64, "saturation": 1.0, "strength": 1.0, "steady": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that the user of ComfyUI added for DDColor's files, with one in it."""
    path = tmp_path_factory.mktemp("ddcolor")
    torch.save({"params": small_weights()}, path / "small.pth")
    folder_paths.add_model_folder_path("ddcolor", str(path))
    yield path
    folder_paths.folder_names_and_paths["ddcolor"][0].remove(str(path))


@pytest.fixture
def loaded(nodes, folder):
    return nodes("ExemplarLoadDDColor", model_name="small.pth")[0]


def run(nodes, loaded, image, **settings):
    return nodes("ExemplarDDColor", ddcolor=loaded, image=image, **{**WIDGETS, **settings})[0]


class TestFiles:
    def test_both_folders_are_listed(self, folder, tmp_path):
        folder_paths.add_model_folder_path("upscale_models", str(tmp_path))
        try:
            torch.save({"params": small_weights("other")}, tmp_path / "in_upscale.bin")
            (tmp_path / "readme.txt").write_text("no weights")
            listed = DDCOLOR.files()
            assert "small.pth" in listed and "in_upscale.bin" in listed and "readme.txt" not in listed
            assert comfy_ddcolor.load("in_upscale.bin", torch.float32).name == "in_upscale.bin"
            # the first folder's file counts where both have one of a name
            torch.save({"params": {}}, tmp_path / "small.pth")
            assert DDCOLOR.files().count("small.pth") == 1
            assert comfy_ddcolor.load("small.pth", torch.float32).variant
        finally:
            folder_paths.folder_names_and_paths["upscale_models"][0].remove(str(tmp_path))

    def test_a_missing_file_is_said_early(self, folder):
        assert LoadDDColor.validate_inputs(model_name="small.pth") is True
        assert LoadDDColor.validate_inputs() is True
        said = LoadDDColor.validate_inputs(model_name="ddcolor_modelscope.pth")
        assert "no 'ddcolor_modelscope.pth' in models/ddcolor" in said and "small.pth" in said and "Download" in said
        assert said.endswith("or choose 'embedded'.")
        with pytest.raises(FileNotFoundError, match=r"no 'gone\.pth'"):
            comfy_ddcolor.load("gone.pth", torch.float32)

    def test_the_embedded_one_is_the_first_choice(self, nodes, folder, scene):
        (choice,) = (i for i in LoadDDColor.GET_SCHEMA().inputs if i.id == "model_name")
        assert choice.default == choice.options[0] == "embedded"
        assert LoadDDColor.validate_inputs(model_name="embedded") is True
        embedded = nodes("ExemplarLoadDDColor", model_name="embedded")[0]
        assert embedded.patcher.model_size() < 8e6
        found = run(nodes, embedded, scene[0])
        assert float(rgb_to_lab(found)[..., 1:].norm(dim=-1).mean()) > 1

    def test_another_model(self, nodes, folder):
        torch.save({"params_ema": {"conv_first.weight": torch.zeros(1)}}, folder / "upscaler.pth")
        with pytest.raises(ValueError, match=r"upscaler.pth: these are not DDColor's weights"):
            nodes("ExemplarLoadDDColor", model_name="upscaler.pth")


class TestModelManager:
    def test_loaded_when_it_runs_and_counted(self, nodes, loaded, scene):
        patcher = loaded.patcher
        assert patcher.model_size() == sum(t.nbytes for t in patcher.model.state_dict().values())
        run(nodes, loaded, scene[0])
        assert any(entry.model is patcher for entry in comfy.model_management.current_loaded_models)

    def test_comes_back_after_it_was_unloaded(self, nodes, loaded, scene):
        before = run(nodes, loaded, scene[0])
        comfy.model_management.unload_all_models()
        assert torch.equal(run(nodes, loaded, scene[0]), before)

    def test_asks_for_memory_by_the_chunk(self, nodes, loaded, scene, monkeypatch):
        asked = []
        real = comfy.model_management.load_models_gpu

        def note(models, memory_required=0, **kw):
            asked.append(memory_required)
            return real(models, memory_required, **kw)

        monkeypatch.setattr(comfy.model_management, "load_models_gpu", note)
        run(nodes, loaded, scene[0].repeat(3, 1, 1, 1), batch=3)
        run(nodes, loaded, scene[0].repeat(3, 1, 1, 1), batch=1)
        assert asked[0] > asked[1] > 0 and asked[1:] == [asked[1]] * 3
        assert asked[0] == memory_of(loaded.patcher.model, 3, 64, 64)

    @pytest.mark.parametrize("precision, tolerance", [("bfloat16", 3.0), ("float16", 0.5)])
    def test_half_precision(self, nodes, loaded, scene, precision, tolerance):
        half = nodes("ExemplarLoadDDColor", model_name="small.pth", precision=precision)[0]
        assert half.patcher.model.refine.weight.dtype == getattr(torch, precision)
        assert half.patcher.model_size() == loaded.patcher.model_size() // 2
        assert float(ab_error(run(nodes, half, scene[0]), run(nodes, loaded, scene[0])).mean()) < tolerance


class TestColor:
    @pytest.mark.parametrize("size", [(64, 64), (61, 103), (34, 200)])
    def test_own_size_and_lightness(self, nodes, loaded, scene, size):
        gray = torch.nn.functional.interpolate(scene[0].movedim(-1, 1), size).movedim(1, -1)
        found = run(nodes, loaded, gray)
        assert found.shape == gray.shape
        assert float((luminance(found) - luminance(gray)).abs().max()) < 0.05
        assert float(rgb_to_lab(found)[..., 1:].norm(dim=-1).mean()) > 1

    def test_chunks_and_batches(self, nodes, loaded, scene):
        frames = torch.cat([scene[0], scene[0].flip(1), scene[0].flip(2)])
        whole = run(nodes, loaded, frames, batch=3)
        for i in range(3):
            assert difference(whole[i], run(nodes, loaded, frames[i : i + 1])[0]) < 1e-4
        assert difference(whole, run(nodes, loaded, frames, batch=2)) < 1e-4

    def test_out_of_memory_halves_the_chunk(self, nodes, loaded, scene, monkeypatch):
        frames = scene[0].repeat(5, 1, 1, 1)
        expected, forward, counts = run(nodes, loaded, frames), type(loaded.patcher.model).forward, []

        def scarce(self, gray):
            counts.append(len(gray))
            if len(gray) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory (test)")
            return forward(self, gray)

        monkeypatch.setattr(type(loaded.patcher.model), "forward", scarce)
        assert difference(run(nodes, loaded, frames, batch=5), expected) < 1e-4
        assert counts == [5, 2, 2, 1]

    def test_options_reach_the_pipeline(self, nodes, loaded, scene):
        wide = torch.nn.functional.interpolate(scene[0].movedim(-1, 1), (90, 160)).movedim(1, -1)
        for image, changes in (
            (scene[0], [{"resolution": 96}, {"saturation": 0.5}, {"strength": 0.5}, {"arithmetic": "official"}]),
            (wide, [{"upsampling": "smooth"}, {"shape": "square"}]),
        ):
            before = run(nodes, loaded, image)
            for change in changes:
                assert difference(run(nodes, loaded, image, **change), before) > 1e-4, change
        strong = {"saturation": 3.0}
        assert difference(run(nodes, loaded, wide, gamut="clip", **strong), run(nodes, loaded, wide, **strong)) > 1e-4
        two = torch.cat([scene[0], scene[0] * 0.97])
        assert difference(run(nodes, loaded, two, steady=1), run(nodes, loaded, two)) > 1e-4
        mask = torch.zeros(1, 64, 64)
        assert difference(run(nodes, loaded, scene[0], mask=mask), scene[0]) < 1e-4

    def test_colored_pictures_are_recolored_with_a_warning(self, nodes, loaded, scene, caplog):
        with caplog.at_level(logging.WARNING):
            run(nodes, loaded, scene[1])
        assert "only its luminance is used" in caplog.text

    @pytest.mark.parametrize(
        "image, match",
        [
            (torch.zeros(0, 8, 8, 3), "image: found an empty batch"),
            (torch.zeros(1, 1, 1, 3), "found 1 x 1 pixels"),
            (torch.full((1, 8, 8, 3), float("nan")), "image: found NaN"),
        ],
    )
    def test_bad_pictures(self, nodes, loaded, image, match):
        with pytest.raises(ValueError, match=match):
            run(nodes, loaded, image)

    def test_alpha(self, nodes, loaded, scene):
        alpha = torch.ones(1, 64, 64, 1)
        assert torch.equal(run(nodes, loaded, torch.cat([scene[0], alpha], -1)), run(nodes, loaded, scene[0]))

    def test_cancel_between_chunks(self, nodes, loaded, scene):
        mm, calls = comfy.model_management, []

        def press_cancel(_module, _inputs, _output):
            calls.append(1)
            if len(calls) == 2:
                mm.interrupt_current_processing()

        button = loaded.patcher.model.register_forward_hook(press_cancel)
        try:
            with pytest.raises(mm.InterruptProcessingException):
                run(nodes, loaded, scene[0].repeat(9, 1, 1, 1), batch=1)
        finally:
            button.remove()
        assert len(calls) == 2
        run(nodes, loaded, scene[0])


class TestReferenceAndFallback:
    def colorize(self, nodes, embedded, image, **inputs):
        model, _, vae, empty = embedded
        return nodes(
            "ExemplarColorize",
            model=model,
            vae=vae,
            conditioning=empty,
            image=image,
            **{**FEW, **inputs},
        )

    def purple(self, gray):
        return (gray * torch.tensor([1.1, 0.8, 1.1])).clamp(0, 1)

    def test_no_reference_at_all(self, nodes, embedded, scene):
        """The automatic picture is the reference."""
        automatic = self.purple(scene[0])
        found = self.colorize(nodes, embedded, scene[0], fallback=automatic)
        wired = self.colorize(nodes, embedded, scene[0], reference=automatic)
        assert torch.equal(found[0], wired[0])
        with pytest.raises(ValueError, match=r"reference: found nothing, .*as fallback an automatic coloring"):
            self.colorize(nodes, embedded, scene[0])

    def test_off_is_what_it_was(self, nodes, embedded, scene):
        plain = self.colorize(nodes, embedded, scene[0], reference=scene[1])
        off = self.colorize(nodes, embedded, scene[0], reference=scene[1], fallback=self.purple(scene[0]))
        assert torch.equal(plain[0], off[0])
        assert plain[4].shape == (1, 64, 64) and bool((plain[4] == 1).all()) and bool((off[4] == 1).all())

    def test_fallback_comes_in_where_attention_is_unsure(self, nodes, embedded, scene):
        inputs = {"reference": scene[1], "fallback": self.purple(scene[0])}
        plain = self.colorize(nodes, embedded, scene[0], **inputs)
        all_of_it = self.colorize(nodes, embedded, scene[0], **inputs, fallback_below=1.0)
        assert float(all_of_it[4].max()) < 0.5
        error = [float(ab_error(r[0], inputs["fallback"]).mean()) for r in (plain, all_of_it)]
        assert error[1] < 0.5 * error[0], error

    def test_rounds_of_a_batch(self, nodes, embedded, scene):
        images = torch.cat([scene[0], scene[0].flip(1), scene[0].flip(2)])
        inputs = {"reference": scene[1], "fallback": self.purple(images), "fallback_below": 0.3}
        together = self.colorize(nodes, embedded, images, **inputs)
        rounds = self.colorize(nodes, embedded, images, **inputs, batch=2)
        assert difference(together[0], rounds[0]) < 1e-3 and difference(together[4], rounds[4]) < 1e-2
        with Calls(embedded[0]) as calls, pytest.raises(ValueError, match="fallback: found 2 for 3 picture"):
            self.colorize(nodes, embedded, images, **{**inputs, "fallback": images[:2]}, batch=1)
        assert not calls.entered

    def test_the_stages_blend_the_same(self, nodes, embedded, scene):
        fallback = self.purple(scene[0])
        plain = self.colorize(nodes, embedded, scene[0], reference=scene[1])
        whole = self.colorize(nodes, embedded, scene[0], reference=scene[1], fallback=fallback, fallback_below=0.5)
        image, share, shown = nodes(
            "ExemplarConfidenceBlend",
            color_image=plain[0],
            fallback=fallback,
            input_inversion=plain[1],
            reference_inversion=plain[3],
            fallback_below=0.5,
        )
        assert difference(share, whole[4]) < 1e-5 and shown.shape == scene[0].shape
        assert float(ab_error(image, whole[0]).mean()) < 2
        assert float((luminance(image) - luminance(scene[0])).abs().max()) < 0.1
        (same, share, _) = nodes(
            "ExemplarConfidenceBlend",
            color_image=plain[0],
            fallback=fallback,
            input_inversion=plain[1],
            reference_inversion=plain[3],
            fallback_below=0.0,
        )
        assert same is plain[0] and bool((share == 1).all())

    def test_inversion_of_other_pictures(self, nodes, inverted, scene):
        with pytest.raises(ValueError, match=r"input_inversion: found 1 inverted picture\(s\), expected 2"):
            nodes(
                "ExemplarConfidenceBlend",
                color_image=scene[1].repeat(2, 1, 1, 1),
                fallback=scene[1],
                fallback_below=0.3,
                input_inversion=inverted["input"][0],
                reference_inversion=inverted["gray"][0],
            )

    def test_older_workflows_load(self):
        """New widgets come last: saved values go to widgets by their position."""
        from comfyui_exemplar.nodes.exemplar import Colorize

        info = Colorize.INPUT_TYPES()
        assert list(info["required"])[-1] == "batch"
        sockets = {"IMAGE", "MASK", "INVERSION", "COLOR_MEMORY", "CLIP", "CONDITIONING"}
        saved = [name for name, (kind, *_) in info["optional"].items() if kind not in sockets]
        assert saved[:2] == ["fallback_below", "method"]  # in the order in which versions added them
        assert "fallback_below" not in info["required"]
