"""DEADiff's way from a picture to tokens against the published program's numbers, step by step and as a whole."""

import pytest
import torch

from comfyui_exemplar.attention.fused import sdpa
from comfyui_exemplar.files.ldm import load_strictly
from comfyui_exemplar.networks.deadiff import weights as published
from comfyui_exemplar.networks.deadiff.load import load_deadiff
from comfyui_exemplar.networks.deadiff.model import (
    CLIPTrunk,
    Projection,
    QFormer,
    normalize,
    resize_bytes,
    resize_floats,
    to_pixels,
)
from comfyui_exemplar.networks.deadiff.weights import DEADiffSizes
from comfyui_exemplar.pipelines.deadiff import encode

TOLERANCE = 1e-5  # what the set's description suggests


def close(found, expected, what="", tolerance=TOLERANCE):
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)} instead of {tuple(expected.shape)}"
    error = float((found.double() - expected.double()).abs().max())
    assert error <= tolerance, f"{what}: {error:.3g} > {tolerance:.3g}"


def sizes(vit=None, qformer=None, projection=0):
    """The manifest's words for sizes as ours."""
    vit, qformer = vit or {}, qformer or {}
    return DEADiffSizes(
        width=vit.get("width", qformer.get("encoder_width")),
        blocks=vit.get("layers"),
        patch=vit.get("patch"),
        vectors=vit.get("tokens"),
        trunk_inner=4 * vit.get("width", 0),
        hidden=qformer.get("hidden"),
        layers=qformer.get("layers"),
        inner=qformer.get("intermediate"),
        vocabulary=qformer.get("vocab"),
        positions=qformer.get("max_pos"),
        queries=qformer.get("num_query"),
        projection=projection,
        trunk_heads=vit.get("heads"),
        heads=qformer.get("heads"),
    )


def keep(module, seen, name):
    def hook(_module, _inputs, output):
        seen[name] = output[0] if isinstance(output, tuple) else output

    module.register_forward_hook(hook)


@torch.no_grad()
def test_qformer(deadiff_set):
    """File a: every intermediate of every case, with a padded text among them."""
    meta, golden = deadiff_set.meta["a_qformer_tiny"], deadiff_set.file("a_qformer_tiny")
    weights = {
        f"style_blip.{name}": tensor
        for name, tensor in deadiff_set.weights("a_qformer_tiny").items()
        if "position_ids" not in name
    }
    qformer = QFormer(sizes(qformer=meta["config"])).eval()
    load_strictly(qformer.model, published.qformer_weights(weights, "style"), "Q-Former")
    seen, queries = {}, meta["config"]["num_query"]
    keep(qformer.model.embeddings, seen, "hidden.0")
    for i, layer in enumerate(qformer.model.encoder.layer):
        keep(layer.attention, seen, f"layer{i}.self_attn_block")
        keep(layer.crossattention, seen, f"layer{i}.cross_attn_block")
        keep(layer, seen, f"hidden.{i + 1}")
    assert meta["cases"]
    for case, about in meta["cases"].items():
        ids, mask = golden[f"{case}.input_ids"], golden[f"{case}.text_attention_mask"]
        assert ids.tolist() == about["tiny_ids"] and mask.tolist() == about["mask"]
        query_tokens = weights["style_blip.query_tokens"].expand(len(ids), -1, -1)
        found = qformer(query_tokens, ids, mask, golden["image_embeds"])
        close(found, golden[f"{case}.multimodal_embeds"], case)
        assert found.shape[1] == queries
        checked = {name.split(".", 1)[1] for name in golden if name.startswith(f"{case}.")} & set(seen)
        assert len(checked) == 1 + 3 * meta["config"]["layers"]
        # columns of padding hold whatever they held before: nobody reads them
        real = torch.cat([mask.new_ones(len(mask), queries), mask], 1).bool()
        for name in checked:
            rows = slice(None) if seen[name].shape[1] == queries else real
            close(seen[name][rows], golden[f"{case}.{name}"][rows], f"{case} {name}")


@torch.no_grad()
def test_projection(deadiff_set):
    """File b."""
    meta, golden = deadiff_set.meta["b_proj_tiny"], deadiff_set.file("b_proj_tiny")
    layer = load_strictly(Projection(meta["dim"], meta["hidden"]), deadiff_set.weights("b_proj_tiny"), "projection")
    assert layer.LayerNorm.eps == meta["eps"]
    close(layer(golden["x"]), golden["y"])


@torch.no_grad()
def test_image_trunk(deadiff_set):
    """File c: the trunk block by block, and the norm after it."""
    golden, config = deadiff_set.file("c_clip_vit_tiny"), deadiff_set.meta["c_clip_vit_tiny"]["config"]
    own = deadiff_set.weights("c_clip_vit_tiny")
    weights = {
        f"style_blip.visual_encoder.{name.removeprefix('visual_encoder.')}": tensor
        for name, tensor in own.items()
        if "ln_vision" not in name
    }
    made = sizes(vit=config)
    assert made.side == config["image"]
    trunk = CLIPTrunk(made).eval()
    load_strictly(trunk.model, published.trunk_weights(weights, "style"), "trunk")
    seen = {}
    keep(trunk.model.pre_layrnorm, seen, "after_ln_pre")
    for i, block in enumerate(trunk.model.encoder.layers):
        keep(block, seen, f"after_block.{i}")
    vectors = trunk(golden["pixels"])
    close(vectors, golden["vit_out"])
    assert len(seen) == 1 + config["layers"]
    for name, tensor in seen.items():
        close(tensor, golden[name], name)
    norm = {name.split(".")[-1]: tensor for name, tensor in own.items() if "ln_vision" in name}
    normed = torch.nn.functional.layer_norm(vectors, vectors.shape[-1:], norm["weight"], norm["bias"], 1e-5)
    close(normed, golden["image_embeds"])


class TestPreprocess:
    """File d: bytes to the trunk's pixels."""

    def cases(self, parity):
        return sorted({name.split(".")[0] for name in parity.file("d_preprocess")} - {"float_path"})

    def test_bytes_are_resized_as_pillow_does(self, deadiff_set):
        golden = deadiff_set.file("d_preprocess")
        assert self.cases(deadiff_set)
        for case in self.cases(deadiff_set):
            found = resize_bytes(golden[f"{case}.image_u8"], 224)
            if f"{case}.resized_u8" in golden:
                assert torch.equal(found, golden[f"{case}.resized_u8"]), case
            else:
                assert torch.equal(found[::32], golden[f"{case}.resized_u8_rows"]), case
            # floats of these bytes, as ComfyUI keeps pictures, give the same
            assert torch.equal(resize_bytes(golden[f"{case}.image_u8"].float() / 255, 224), found)

    def test_pixels(self, deadiff_set):
        golden = deadiff_set.file("d_preprocess")
        for case in self.cases(deadiff_set):
            pixels = to_pixels(golden[f"{case}.image_u8"][None], 224)
            if f"{case}.pixel_values" in golden:
                close(pixels, golden[f"{case}.pixel_values"], case)
            else:
                close(pixels[:, :, ::32], golden[f"{case}.pixel_values_rows"], case)
            close(torch.stack([pixels.mean(), pixels.std()]), golden[f"{case}.pixel_values_mean_std"], case)

    def test_the_second_resize(self, deadiff_set):
        golden = deadiff_set.file("d_preprocess")
        image = golden["float_path.image_u8"]
        assert list(image.shape[:2]) == deadiff_set.meta["d_preprocess"]["float_path_hw"]
        pixels = normalize(resize_floats(image.movedim(-1, 0)[None].float() / 255, 224))
        close(pixels[:, :, ::16], golden["float_path.pixel_values_rows"])
        if "float_path.pixel_values_half" in golden:
            close(pixels, golden["float_path.pixel_values_half"], "half", 2e-3)
        small = torch.rand(1, 3, 224, 224)
        assert resize_floats(small, 224) is small


def test_cross_attention(deadiff_set):
    """File e: one joint softmax; with weight 0 the tokens still damp; without tokens it is plain attention."""
    from comfyui_exemplar.attention.call import CONDITIONAL, AttentionCall
    from comfyui_exemplar.attention.image_tokens import ImageTokens, project_tokens
    from comfyui_exemplar.attention.layers import Layer

    meta, golden = deadiff_set.meta["e_cross_attention_tiny"], deadiff_set.file("e_cross_attention_tiny")
    w = deadiff_set.weights("e_cross_attention_tiny")
    layer = Layer("input", 1)
    rows = len(golden["x"])
    call = AttentionCall(
        layer,
        1.0,
        golden["x"] @ w["to_q.weight"].T,
        golden["text"] @ w["to_k.weight"].T,
        golden["text"] @ w["to_v.weight"].T,
        meta["heads"],
        (CONDITIONAL,) * rows,
        tuple(range(rows)),
        tuple(range(rows)),
        (golden["x"].shape[1], 1),
        sdpa,
    )

    def out(tokens, weight):
        kept = project_tokens({"style": tokens}, {layer: (w["i_to_k.weight"], w["i_to_v.weight"])}, {layer: "style"})
        edit = ImageTokens(kept, weight, "official")
        return edit(call, AttentionCall.plain) @ w["to_out.0.weight"].T + w["to_out.0.bias"]

    for weight in meta["img_weights"]:
        name = f"out.w{weight}"
        close(out(golden["image"], weight), golden[name], name)
    close(out(torch.zeros_like(golden["image"]), 1.0), golden["out.zero_image"])
    close(call.plain() @ w["to_out.0.weight"].T + w["to_out.0.bias"], golden["out.no_image"])
    # what the pack's own weighting makes of the ends of the scale
    kept = project_tokens(
        {"style": golden["image"]}, {layer: (w["i_to_k.weight"], w["i_to_v.weight"])}, {layer: "style"}
    )
    assert torch.equal(ImageTokens(kept, 0.0)(call, AttentionCall.plain), call.plain())
    official = ImageTokens(kept, 1.5, "official")(call, AttentionCall.plain)
    assert torch.equal(ImageTokens(kept, 1.5)(call, AttentionCall.plain), official)


@pytest.fixture(scope="module")
def recorded_adapter(deadiff_set, tmp_path_factory):
    """File h's weights as a checkpoint on disk, with what else a checkpoint holds, read by the loader."""
    config = deadiff_set.meta["h_conditioning_tiny"]["config"]
    weights = {n: t for n, t in deadiff_set.file("h_conditioning_tiny").items() if not n.startswith(("in.", "out."))}
    hidden = config["qformer"]["hidden"]
    for letter in "kv":
        weights[published.projection_name(("input", 1, 0), letter)] = torch.zeros(32, hidden)
    weights |= {
        "betas": torch.zeros(4),
        "model.diffusion_model.out.2.bias": torch.zeros(4),
        "ctx_embeddings_cache": torch.zeros(1),
        "style_blip.itm_head.bias": torch.zeros(2),
        "style_blip.Qformer.bert.embeddings.position_ids": torch.arange(3),
    }
    path = tmp_path_factory.mktemp("deadiff") / "recorded.ckpt"
    torch.save({"state_dict": weights, "epoch": 3}, path)
    return load_deadiff(path, trunk_heads=config["vit"]["heads"], heads=config["qformer"]["heads"])


def test_whole_path(deadiff_set, recorded_adapter):
    """File h: image bytes to the tokens of both branches, for each mode."""
    meta, golden = deadiff_set.meta["h_conditioning_tiny"], deadiff_set.file("h_conditioning_tiny")
    ids = {word: tuple(numbers) for word, numbers in meta["text_ids"].items()}
    recorded_adapter = recorded_adapter.__class__(**{**vars(recorded_adapter), "words": ids})
    image = golden["in.image_u8"][None].float() / 255
    modes = {
        "style": {"style": "style"},
        "content": {"semantics": "content"},
        "other_word": {"semantics": "painting"},
        "both": {"style": "style", "semantics": "content"},
    }
    assert set(modes) == set(meta["modes"])
    zeros = golden["out.uncond.image_tokens"]
    assert not zeros.any()
    for mode, words in modes.items():
        found = encode(recorded_adapter, image, words)
        for kind, branch in (("style", "style"), ("semantics", "content")):
            expected = golden[f"out.{mode}.{branch}_branch_image_tokens"]
            close(found.get(kind, torch.zeros_like(expected)), expected, f"{mode} {branch}")


def test_keys(deadiff_set):
    """Exactly the tensors that the list calls new or the trunk's are read, and all of them are asked for."""
    listed = deadiff_set.json("keys_official")["keys"]
    wanted = {
        "unet_image_kv",
        *(f"{b}_{p}" for b in published.BRANCHES for p in ("query_tokens", "vit", "ln_vision", "qformer", "proj")),
    }
    assert wanted <= {entry["part"] for entry in listed.values()}
    ours = {name for name, entry in listed.items() if entry["part"] in wanted}
    assert {name for name in listed if published.is_ours(name)} == ours
    weights = {name: torch.empty(entry["shape"], device="meta") for name, entry in listed.items()}
    weights = published.own_weights(weights)
    found = published.read_sizes(weights)
    assert (found.side, found.hidden, found.queries, found.heads, found.trunk_heads) == (224, 768, 16, 12, 16)
    assert published.check_weights(weights, found) == set()
    shapes = published.published_shapes(found)
    projections = published.read_projections(weights)
    named = {published.projection_name(place, letter) for place, pair in projections.items() for letter in pair}
    assert shapes.keys() | named == ours
    assert all(list(shape) == listed[name]["shape"] for name, shape in shapes.items())
    assert len(projections) == 16


def test_words(deadiff_set):
    from comfyui_exemplar.networks.deadiff.load import WORDS

    assert {word: list(ids) for word, ids in WORDS.items()} == deadiff_set.meta["tokenizer"]["input_ids"]
