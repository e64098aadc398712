"""Several references for every image: Exemplar Colorize by both methods, and its stages."""

import pytest
import torch

from comfyui_exemplar.color import desaturate, resize

from .sampling import Calls, difference, invert, run
from .test_nodes_colorize import SETTINGS

ALL = "all for every image"


@pytest.fixture(scope="module")
def references(scene):
    """Two references of one size."""
    return torch.cat([scene[1], scene[1].flip(-1).roll(9, 1)])


@pytest.fixture
def colorize(nodes, embedded, scene):
    def made(reference, image=scene[0], **settings):
        model, _, vae, empty = embedded
        asked = {**SETTINGS, "match_chroma": 0.7, "match_latents": 1.0, **settings}
        return nodes(
            "ExemplarColorize", model=model, vae=vae, conditioning=empty, image=image, reference=reference, **asked
        )

    return made


@pytest.fixture(scope="module")
def parts(nodes, embedded, scene, references):
    """Inversions of the input, of two references, and of one of another size: latents, noised, sigmas."""
    model, _, vae, empty = embedded

    def made(image):
        return invert(nodes, model, empty, vae.encode(image))

    pictures = {"reference": references, "one": references[:1], "wide": resize(references[1:], (48, 80))}
    with torch.inference_mode():
        parts = {name: made(image) for name, image in pictures.items()}
        gray = {"gray": "reference", "one_gray": "one", "wide_gray": "wide"}
        parts |= {name: made(desaturate(pictures[of])) for name, of in gray.items()}
        return {"input": made(scene[0]), **parts}


class TestColorize:
    def test_one_reference_is_the_same_bit_for_bit(self, colorize, scene):
        mask = torch.zeros(1, 64, 64)
        mask[..., :40] = 1
        for extra in ({}, {"reference_mask": mask}):
            plain, every = colorize(scene[1], **extra), colorize(scene[1], **extra, references=ALL, weights="2")
            assert torch.equal(plain[0], every[0])

    def test_the_same_twice_is_the_same_as_once(self, colorize, scene):
        twice = colorize(scene[1].repeat(2, 1, 1, 1), references=ALL, weights="1, 3")
        assert difference(twice[0], colorize(scene[1])[0]) < 1e-4

    def test_a_batch_of_the_inputs_size_is_one_each_unless_said_otherwise(self, colorize, scene, references):
        inputs = torch.cat([scene[0], scene[0].flip(2)])
        each = colorize(references, inputs)
        assert difference(each[0], colorize(references, inputs, references="one per image")[0]) == 0
        every = colorize(references, inputs, references=ALL)
        assert difference(each[0], every[0]) > 1e-2
        assert difference(every[0][1:], colorize(references, inputs[1:], references=ALL)[0]) < 1e-3
        assert difference(every[0], colorize(references, inputs, references=ALL, batch=1)[0]) < 1e-3

    def test_masks_weights_and_inversions_go_on(self, colorize, references):
        masks = torch.stack([torch.ones(64, 64), torch.zeros(64, 64)])
        first = colorize(references, reference_mask=masks, references=ALL)
        assert difference(first[0], colorize(references[:1])[0]) < 1e-4
        assert first[2].pictures == first[3].pictures == 2
        kept = {"reference_inversion": first[2], "gray_inversion": first[3], "references": ALL}
        again = colorize(references, reference_mask=masks, **kept)
        assert difference(first[0], again[0]) < 1e-4
        turned = colorize(references, reference_mask=masks.flip(0), **kept)
        assert difference(turned[0], colorize(references[1:])[0]) < 1e-3
        weighted = colorize(references, weights="1, 0.0001", **kept)
        assert difference(weighted[0], first[0]) < 1e-2
        without = colorize(None, match_chroma=0.0, **kept)
        assert torch.isfinite(without[0]).all()

    def test_more_references_cost_an_inversion_each(self, colorize, embedded, references):
        """All of them in the rows of the same calls; sampling has as many rows as with one."""
        four = references.repeat(2, 1, 1, 1)
        with Calls(embedded[0]) as several:
            colorize(four, references=ALL)
        # three steps down: the input, and four references in color and without; three steps up: colored and plain
        assert several.left == [8] * 3 + [1] * 3 + [2] * 3
        with Calls(embedded[0]) as halved:
            colorize(four, references=ALL, batch=2)
        assert halved.left == [4] * 6 + [1] * 3 + [2] * 3

    def test_a_fallback(self, colorize, references, scene):
        share = colorize(references, references=ALL, fallback=scene[1], fallback_below=0.9)[4]
        assert share.shape == (1, 64, 64) and share.min() < 1

    def test_by_memory(self, colorize, scene, references):
        settings = {"method": "memory", "resolution": 64}
        inputs = torch.cat([scene[0], scene[0].flip(2)])
        each = colorize(references, inputs, **settings)[0]
        every = colorize(references, inputs, references=ALL, **settings)[0]
        assert difference(each, every) > 1e-3
        leaning = colorize(references, inputs, references=ALL, weights="1, 0.0001", **settings)[0]
        assert difference(leaning, colorize(references[:1], inputs, **settings)[0]) < 2e-2

    @pytest.mark.parametrize(
        "settings, said",
        [
            ({"weights": "1, 2"}, "weights: found some, expected none with references on one per image"),
            ({"references": ALL, "weights": "1, 2, 3"}, "weights: found 3 for 2 reference"),
            ({"references": ALL, "weights": "1, 0"}, "weights: found .* above 0"),
            ({"references": ALL, "reference_mask": torch.ones(3, 8, 8)}, "reference_mask: found 3 for 2 picture"),
            ({"references": ALL, "reference_mask": torch.zeros(2, 8, 8)}, "reference_mask: found masks with nothing"),
            ({"references": ALL, "postprocess": "official"}, "postprocess is official, which knows one reference"),
            ({}, "reference: found 2 for 1 picture"),
            ({"references": "every one"}, "references is 'every one'; expected one of"),
        ],
    )
    def test_what_is_refused_before_any_work(self, colorize, references, embedded, settings, said):
        with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=said):
            colorize(references, **settings)
        assert not calls.left


class TestStages:
    @pytest.fixture
    def inject(self, nodes, embedded, parts):
        def made(reference="reference", gray="gray", second=None, **settings):
            if second is not None:
                settings |= {"reference_inversion_2": parts[second][0], "gray_inversion_2": parts[f"{second}_gray"][0]}
            (patched,) = nodes(
                "ExemplarDualAttentionColor",
                model=embedded[0],
                input_inversion=parts["input"][0],
                reference_inversion=parts[reference][0],
                gray_inversion=parts[gray][0],
                **settings,
            )
            return run(patched, embedded[3], parts["input"][1], parts["input"][2])

        return made

    def test_one_is_the_same_bit_for_bit(self, inject):
        assert torch.equal(inject("one", "one_gray"), inject("one", "one_gray", references=ALL))

    def test_two_of_one_size(self, inject):
        both, first = inject(references=ALL), inject("one", "one_gray")
        assert difference(both, first) > 1e-3
        masks = torch.stack([torch.ones(64, 64), torch.zeros(64, 64)])
        assert difference(inject(references=ALL, reference_mask=masks), first) < 1e-4
        assert difference(inject(references=ALL, weights="1, 0.0000001"), first) < 1e-3

    def test_of_another_size(self, inject):
        both = inject("one", "one_gray", "wide", references=ALL)
        assert difference(both, inject("one", "one_gray")) > 1e-3
        alone = inject("wide", "wide_gray")
        masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
        assert difference(inject("one", "one_gray", "wide", references=ALL, reference_mask=masks), alone) < 1e-4
        three = inject("reference", "gray", "wide", references=ALL, weights="0.00001, 0.00001, 1")
        assert difference(three, alone) < 1e-2

    @pytest.fixture
    def in_stages(self, nodes, embedded, parts, colorize, references):
        """Statistics, injection, guidance and merge as stages."""

        def made(**several):
            model, _, vae, empty = embedded
            (latent,) = nodes(
                "ExemplarMatchLatentStatistics",
                latent=parts["input"][1],
                reference=parts["reference"][1],
                strength=1.0,
                **several,
            )
            (patched,) = nodes(
                "ExemplarDualAttentionColor",
                model=model,
                input_inversion=parts["input"][0],
                reference_inversion=parts["reference"][0],
                gray_inversion=parts["gray"][0],
                **several,
                **{name: SETTINGS[name] for name in ("gamma_shallow", "gamma_deep", "beta_shallow", "beta_deep")},
            )
            decoded = vae.decode(run(patched, empty, latent, parts["input"][2], cfg=SETTINGS["guidance"]))
            (image,) = nodes(
                "ExemplarMergeLuminance",
                color_image=decoded,
                image=colorize(references, references=ALL)[0],
                reference=references,
                match_chroma=0.7,
                **several,
            )
            return image

        return made

    def test_the_same_as_the_whole_node(self, in_stages, colorize, references):
        """Beside Exemplar Colorize, and also where each reference has a mask of its own."""
        weighted = {"references": ALL, "weights": "1, 2"}
        assert difference(in_stages(**weighted), colorize(references, **weighted)[0]) < 0.02
        masks = torch.zeros(2, 64, 64)
        masks[0, :, :24], masks[1, 20:50, 10:40] = 1, 1
        masked = {**weighted, "reference_mask": masks}
        found, whole = in_stages(**masked), colorize(references, **masked)[0]
        assert difference(found, whole) < 0.02
        assert difference(found, in_stages(**weighted)) > 0.05
        only_first = {"references": ALL, "reference_mask": torch.stack([masks[0], 0 * masks[0]])}
        assert difference(in_stages(**only_first), colorize(references, **only_first)[0]) < 0.02

    def test_masks_of_statistics(self, nodes, references, scene):
        """Where the mask leaves one color, that is the mean; a single reference counts as a whole."""
        from comfyui_exemplar.color import rgb_to_lab

        halves = references.clone()
        halves[:, :, :32], halves[:, :, 32:] = torch.tensor([0.8, 0.3, 0.3]), torch.tensor([0.3, 0.3, 0.8])
        left = (torch.arange(64) < 32).float().expand(2, 64, 64)
        merge = {"color_image": references[:1], "image": scene[0] * 0.3 + 0.3, "references": ALL}

        def mean(**given):
            return rgb_to_lab(nodes("ExemplarMergeLuminance", **merge, **given)[0])[..., 1:].mean((0, 1, 2))

        wanted = rgb_to_lab(halves[:1, :1, :1])[0, 0, 0, 1:]
        assert difference(mean(reference=halves, reference_mask=left), wanted) < 1
        assert difference(mean(reference=halves), wanted) > 10
        assert difference(mean(reference=halves[:1], reference_mask=left[:1]), mean(reference=halves[:1])) == 0
        reference = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        latent = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))}
        (matched,) = nodes(
            "ExemplarMatchLatentStatistics",
            latent=latent,
            reference={"samples": reference},
            strength=1.0,
            references=ALL,
            reference_mask=torch.stack([left[0], 0 * left[0]]),
        )
        torch.testing.assert_close(matched["samples"].mean((0, 2, 3)), reference[0, :, :, :4].mean((1, 2)))
        torch.testing.assert_close(matched["samples"].std((0, 2, 3)), reference[0, :, :, :4].std((1, 2)))

    @pytest.mark.parametrize(
        "given, said",
        [
            ({"reference_mask": 2}, "reference_mask: found one, expected none with references on one per image"),
            ({"references": ALL, "reference_mask": 3}, "reference_mask: found 3 for 2 picture"),
            ({"references": ALL, "reference_mask": 2, "black": True}, "reference_mask: found masks with nothing"),
            ({"references": ALL, "weights": "1, 2, 3"}, "weights: found 3 for 2 reference"),
        ],
    )
    def test_masks_of_statistics_that_are_refused(self, nodes, references, scene, given, said):
        given = dict(given)
        if "reference_mask" in given:
            given["reference_mask"] = torch.full((given["reference_mask"], 8, 8), 0.0 if given.pop("black", 0) else 1.0)
        latents = {"samples": torch.randn(2, 4, 8, 8)}
        for node, inputs in (
            ("MergeLuminance", {"color_image": references, "image": scene[0], "reference": references}),
            ("MatchLatentStatistics", {"latent": latents, "reference": latents}),
        ):
            with pytest.raises(ValueError, match=said):
                nodes(f"Exemplar{node}", **inputs, **given)
        if given.get("references") and "reference_mask" in given:
            with pytest.raises(ValueError, match="reference_mask: found one, expected none without a reference"):
                nodes("ExemplarMergeLuminance", color_image=references, image=scene[0], **given)

    @pytest.mark.parametrize(
        "settings, said",
        [
            ({"weights": "1, 2"}, "weights: found some, expected none"),
            ({"second": "wide"}, "reference_inversion_2: found one, expected none with references on one per image"),
            ({"references": ALL, "weights": "1, 2, 3"}, "weights: found 3 for 2 "),
            ({"references": ALL, "reference_mask": torch.ones(3, 8, 8)}, "reference_mask: found 3 for 2 "),
            ({"references": ALL, "gray": "one_gray"}, "gray_inversion: found 1 picture"),
            ({}, "reference_inversion: found 2 reference"),
        ],
    )
    def test_what_is_refused(self, inject, settings, said):
        with pytest.raises(ValueError, match=said):
            inject(**settings)

    def test_half_of_a_second_pair(self, inject, parts):
        with pytest.raises(ValueError, match="gray_inversion_2: found nothing, expected both"):
            inject(references=ALL, reference_inversion_2=parts["wide"][0])

    def test_confidence_and_maps_over_all(self, nodes, scene, references, parts):
        given = {"input_inversion": parts["input"][0], "reference_inversion": parts["gray"][0]}
        looked = {"image": scene[0], "reference": references, "x": 0.5, "y": 0.5}
        shown, heat, carried, sure = nodes("ExemplarAttentionMap", **given, **looked, references=ALL)
        assert shown.shape[0] == heat.shape[0] == 2 and carried.shape[0] == sure.shape[0] == 1
        assert heat.amax() == 1 and heat.amin() >= 0
        masks = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])
        _, masked, only, _ = nodes("ExemplarAttentionMap", **given, **looked, references=ALL, reference_mask=masks)
        assert masked[1].amax() == 0 and masked[0].amax() == 1
        one = {"input_inversion": parts["input"][0], "reference_inversion": parts["one_gray"][0]}
        alone = nodes("ExemplarAttentionMap", **one, image=scene[0], reference=references[:1], x=0.5, y=0.5)
        assert difference(masked[:1], alone[1]) < 1e-3 and difference(only, alone[2]) < 1e-3
        blend = {"color_image": references[:1], "fallback": scene[1], "fallback_below": 0.5}
        first = nodes("ExemplarConfidenceBlend", **blend, **one)
        both = nodes("ExemplarConfidenceBlend", **blend, **given, references=ALL, reference_mask=masks)
        assert difference(first[0], both[0]) < 1e-3
        # the mask of a picture's own reference
        own = nodes("ExemplarAttentionMap", **given, **looked, reference_mask=torch.ones(1, 8, 8))
        assert difference(own[1], nodes("ExemplarAttentionMap", **given, **looked)[1]) < 1e-5
        with pytest.raises(ValueError, match="reference: found 1 for 2 inverted"):
            nodes("ExemplarAttentionMap", **given, **{**looked, "reference": references[:1]}, references=ALL)
