"""Right inputs for every node, small enough that a run takes a fraction of a second."""

from __future__ import annotations

import folder_paths
import torch
from comfy_api.latest import InputImpl, io

from comfyui_exemplar.files.inversions import Inversions, save_inversions
from comfyui_exemplar.files.memories import save_memory
from comfyui_exemplar.hosts.comfy.embedded import load_demo
from comfyui_exemplar.hosts.comfy.folders import CLIPSEG, COLOR_MEMORIES, INVERSIONS
from comfyui_exemplar.nodes import NODES

from ....fixtures.clipseg import save
from ....fixtures.tiny_films import write_film

SIZE = 64

#: What a node is given in place of its defaults, so that it is quick.
QUICK = {
    "ExemplarColorize": {"steps": 20, "depth": 2, "passes": 1, "resolution": SIZE},
    "ExemplarTranslate": {"steps": 2, "updates": 1, "resolution": 32, "pivot_iterations": 1},
    "ExemplarDDIMInversion": {"steps": 20, "depth": 2},
    "ExemplarConceptInversion": {
        "updates": 1,
        "resolution": 32,
        "accumulation": 1,
        "rows": 1,
        "name": "odd",
        "when_the_file_exists": "start over",
    },
    "ExemplarPivotInversion": {"iterations": 1},
    "ExemplarDDColor": {"resolution": SIZE},
    "ExemplarLCADCondition": {"resolution": SIZE},
    "ExemplarLCADInstances": {"prompt": "a red apple"},
    "ExemplarPromptControl": {"source": "an apple", "target": "a bell"},
    "ExemplarReferringMask": {"phrases": "apple\nbell"},
    "ExemplarLoadPhotograph": {"image": "right.png"},
    "ExemplarLoadPhotographFolder": {"folder": "right"},
    "ExemplarLoadCLIPSeg": {"model_name": "tiny"},
    "ExemplarSavePhotograph": {"filename_prefix": "odd/picture"},
    "ExemplarColorFeatures": {"resolution": SIZE},
    "ExemplarColorMemory": {"resolution": SIZE},
    "ExemplarColorStrokes": {"resolution": SIZE},
    "ExemplarColorPalette": {"colors": "#c8102e, #3a6"},
    "ExemplarMemoryColorize": {"resolution": SIZE},
    "ExemplarSaveMemory": {"filename_prefix": "color_memories/odd"},
    "ExemplarDoctor": {"quick": True, "embedded_files": False},
    "ExemplarLoadMemory": {"memory_name": "right.safetensors"},
    "ExemplarSaveInversion": {"filename_prefix": "inversions/odd"},
    "ExemplarLoadInversion": {"inversion_name": "right.safetensors"},
    "ExemplarColorizeVideo": {
        "resolution": SIZE,
        "filename_prefix": "odd/film",
        "cuts": "0",
        "key_method": "none",
    },
}

#: Nodes that look at pictures with a MODEL, for which they need its VAE.
_LOOKING = (
    "ExemplarColorFeatures",
    "ExemplarColorMemory",
    "ExemplarColorStrokes",
    "ExemplarMemoryColorize",
    "ExemplarColorizeVideo",
)

#: Inputs of which either may be given.
INSTEAD = {("ExemplarTranslate", "concept"): "reference"}
#: Inputs that need another one beside them.
BESIDE = {
    ("ExemplarColorize", "reference_inversion"): ("gray_inversion",),
    ("ExemplarColorize", "gray_inversion"): ("reference_inversion",),
    ("ExemplarDualAttentionColor", "reference_inversion_2"): ("gray_inversion_2",),
    ("ExemplarDualAttentionColor", "gray_inversion_2"): ("reference_inversion_2",),
    ("ExemplarMergeLuminance", "reference_mask"): ("reference",),
    ("ExemplarPromptControl", "pivots"): ("inversion",),
    **{(node, name): ("vae",) for node in _LOOKING for name in ("conditioning", "clip")},
    ("ExemplarTransferColors", "model"): ("vae",),
    ("ExemplarColorizeVideo", "key_frame_mask"): ("key_frames",),
    **{("ExemplarDoctor", name): ("model", "vae", "clip") for name in ("model", "vae", "clip")},
    **{
        ("ExemplarDoctor", name): ("lcad_model", "lcad_clip", "lcad_vae")
        for name in ("lcad_model", "lcad_clip", "lcad_vae")
    },
    **{("ExemplarTransferColors", name): ("model", "vae") for name in ("memory", "vae", "conditioning", "clip")},
}
BY_ID = {node.define_schema().node_id: node for node in NODES}


def run(node_id, **inputs):
    """A node's outputs."""
    return BY_ID[node_id].execute(**inputs).result


def scene(seed=0):
    """(1, SIZE, SIZE, 3): a shape on a ground, in colors."""
    rows = torch.linspace(0, 1, SIZE)[:, None].expand(SIZE, SIZE)
    shape = ((rows - 0.5) ** 2 + (rows.T - 0.4 - 0.1 * seed) ** 2 < 0.08).float()
    # eight bits are enough for its numbers, so that half precision holds the same picture
    return torch.stack([230 - 26 * shape, 230 - 179 * shape, 230 - 154 * shape], -1)[None] / 256


class Right:
    """Something right for every socket and every node, made once.

    :param folder: where files may be written.
    """

    def __init__(self, folder) -> None:
        self._folders(folder)
        self.special = {}
        model, clip, vae = load_demo()
        empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        color = scene()
        gray = color.mean(-1, keepdim=True).expand(-1, -1, -1, 3).contiguous()
        lcad = run("ExemplarLoadLCAD", model_name="embedded")
        (marked,) = run("ExemplarAttentionCapture", model=model, layers="color", keep="everything (q, k, v)")
        (deadiff,) = run("ExemplarLoadDEADiff", model_name="embedded")
        self.inverted = {
            name: self.invert(marked, empty, vae.encode(image), depth=2, steps=20)
            for name, image in (
                ("input", gray),
                ("reference", scene(1)),
                ("gray", scene(1).mean(-1, True).expand(gray.shape)),
            )
        }
        self.whole = self.invert(model, empty, vae.encode(color), depth=3, steps=3)
        pivots = run("ExemplarPivotInversion", model=model, conditioning=empty, inversion=self.whole[0], iterations=1)
        self.sockets = {
            "MODEL": model,
            "CLIP": clip,
            "VAE": vae,
            "CONDITIONING": empty,
            "IMAGE": color,
            "MASK": torch.linspace(0, 1, SIZE)[None, None].expand(1, SIZE, SIZE).contiguous(),
            "LATENT": {"samples": vae.encode(color)},
            "INVERSION": self.inverted["input"][0],
            "PIVOTS": pivots[0],
            "REFERRING": run("ExemplarLoadCLIPSeg", model_name="tiny")[0],
            "DDCOLOR": run("ExemplarLoadDDColor", model_name="embedded")[0],
            "DEADIFF": deadiff,
            "DEADIFF_TOKENS": run("ExemplarDEADiffEncode", deadiff=deadiff, image=color)[0],
            "LCAD_VAE": lcad[2],
            "PHOTOGRAPH_FACTS": run("ExemplarLoadPhotograph", image="right.png")[2],
        }
        self.sockets["MODEL,CLIP_VISION"] = model
        self.sockets["VIDEO"] = InputImpl.VideoFromFile(
            str(write_film(folder / "input" / "right.mp4", gray.repeat(3, 1, 1, 1)))
        )
        marks = color.clone()
        marks[:, :8, :8] = torch.tensor([0.1, 0.2, 0.8])
        self.special["ExemplarColorStrokes", "marks"] = marks
        self.sockets["COLOR_FEATURES"] = run("ExemplarColorFeatures", **self.inputs("ExemplarColorFeatures"))[0]
        memory = run("ExemplarColorMemory", **self.inputs("ExemplarColorMemory"))[0]
        self.sockets["COLOR_MEMORY"] = memory
        save_memory(folder / "color_memories" / "right.safetensors", memory)
        kept = Inversions((self.inverted["reference"][0],), (self.inverted["gray"][0],))
        save_inversions(folder / "inversions" / "right.safetensors", kept)
        (style,) = run("ExemplarDEADiffEncode", deadiff=deadiff, image=color, take="semantics")
        shared = {"whole": self.whole[0], "style": style, **{k: v[0] for k, v in self.inverted.items()}}
        pair = run("ExemplarColorize", **self.inputs("ExemplarColorize"))
        self.special |= {
            ("ExemplarConceptFusion", "inversion"): shared["whole"],
            ("ExemplarPromptControl", "inversion"): shared["whole"],
            ("ExemplarPivotInversion", "inversion"): shared["whole"],
            ("ExemplarDEADiffEncode", "tokens"): shared["style"],
            ("ExemplarColorize", "reference_inversion"): pair[2],
            ("ExemplarColorize", "gray_inversion"): pair[3],
            ("ExemplarDoctor", "lcad_model"): lcad[0],
            ("ExemplarDoctor", "lcad_clip"): lcad[1],
        }
        for node in ("ExemplarDualAttentionColor", "ExemplarAttentionMap", "ExemplarConfidenceBlend"):
            self.special[node, "reference_inversion"] = shared["reference"]
            self.special[node, "gray_inversion"] = shared["gray"]
            self.special[node, "reference_inversion_2"] = shared["reference"]
            self.special[node, "gray_inversion_2"] = shared["gray"]

    def _folders(self, folder) -> None:
        from PIL import Image

        for name in ("input", "output", "temp", "embeddings", "clipseg", "color_memories", "inversions"):
            (folder / name).mkdir()
        folder_paths.set_input_directory(str(folder / "input"))
        folder_paths.set_output_directory(str(folder / "output"))
        folder_paths.set_temp_directory(str(folder / "temp"))
        folder_paths.folder_names_and_paths["embeddings"][0].insert(0, str(folder / "embeddings"))
        for kind in (COLOR_MEMORIES.names[0], INVERSIONS.names[0]):
            folder_paths.folder_names_and_paths[kind] = ([str(folder / kind)], {".safetensors"})
        folder_paths.folder_names_and_paths[CLIPSEG.name] = ([str(folder / "clipseg")], set())
        with torch.inference_mode(False), torch.no_grad():
            save(folder / "clipseg" / "tiny")
        picture = Image.fromarray((scene()[0] * 255).byte().numpy())
        (folder / "input" / "right").mkdir()
        for name in ("right.png", "right/one.png", "right/two.png"):
            picture.save(folder / "input" / name)

    @staticmethod
    def invert(model, conditioning, samples, **settings):
        """What DDIM Inversion gives."""
        return run(
            "ExemplarDDIMInversion",
            model=model,
            conditioning=conditioning,
            latent={"samples": samples},
            measure_round_trip=False,
            **settings,
        )

    def inputs(self, node_id, *wanted):
        """Right values for a node's required inputs, and for those that are wanted."""
        schema = BY_ID[node_id].define_schema()
        wanted = {*wanted, *(more for name in wanted for more in BESIDE.get((node_id, name), ()))}
        left_out = {INSTEAD.get((node_id, name)) for name in wanted}
        if node_id in ("ExemplarColorize", "ExemplarTranslate") and "concept" not in wanted:
            wanted.add("reference")
        if node_id in _LOOKING:
            wanted.add("vae")
        if node_id == "ExemplarColorizeVideo":
            wanted.add("reference")
        if node_id == "ExemplarLatentLuminance" and not wanted & {"latent", "model"}:
            wanted.add("latent")
        made = {}
        for item in schema.inputs:
            if item.id in left_out:
                continue
            if isinstance(item, io.WidgetInput):
                made[item.id] = QUICK.get(node_id, {}).get(item.id, item.default)
            elif not item.optional or item.id in wanted:
                made[item.id] = self.special.get((node_id, item.id), self.sockets[item.get_io_type()])
        if "key_frames" in made:
            made["key_frame_numbers"] = "1"
        statistics = node_id in ("ExemplarMatchLatentStatistics", "ExemplarMergeLuminance")
        if "reference_inversion_2" in made or (statistics and "reference_mask" in made):
            made["references"] = "all for every image"
        if statistics and "reference_mask" in made:  # of a single one all would count
            made["reference"] = _twice(made["reference"])
        if node_id == "ExemplarColorize" and "memory" in wanted:
            made["method"] = "memory"  # and no inversions, which that has no use for
            made = {name: value for name, value in made.items() if not name.endswith("inversion")}
        return made


def _twice(reference):
    """Two references of one IMAGE or LATENT."""
    if isinstance(reference, dict):
        return {**reference, "samples": torch.cat([reference["samples"]] * 2)}
    return torch.cat([reference] * 2)
