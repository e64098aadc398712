"""What the training writes into the embedded files' headers is what stands in the installed ones."""

from comfyui_exemplar import demo
from comfyui_exemplar.pipelines.exemplar import ColorizeSettings
from comfyui_exemplar.pipelines.lcad import LCADSettings
from comfyui_exemplar.pipelines.memory_settings import MemorySettings
from comfyui_exemplar.pipelines.recommended import read_recommended
from comfyui_exemplar.pipelines.vct import TranslateSettings
from comfyui_exemplar.settings import entries


def test_the_embedded_model():
    from training.export import recommended

    assert recommended() == read_recommended(demo.model_path())


def test_the_embedded_lcad():
    from training.lcad_file import RECOMMENDED

    assert read_recommended(demo.lcad_path()) == RECOMMENDED


def test_names_are_settings():
    """A name that no setting has would be passed over silently."""
    systems = {"exemplar": ColorizeSettings, "vct": TranslateSettings, "lcad": LCADSettings, "memory": MemorySettings}
    for path in (demo.model_path(), demo.lcad_path()):
        for system, section in read_recommended(path).items():
            known = {entry.recommended_as for entry in entries(systems[system]).values()}
            assert section.keys() <= known, (path.name, system)
