"""Measure Colors in a real ComfyUI server: its table is the node's text, its plot a preview."""

from PIL import Image

from .server import needs_comfyui

needs_comfyui()


def test_the_table_and_the_plot_are_shown(server):
    """The gray scene against its own reference, by the pack's pictures alone."""
    pictures = {"class_type": "ExemplarLoadDemoPictures", "inputs": {"pictures": "scene"}}
    inputs = {"color_image": ["1", 1], "reference": ["1", 1], "truth": ["1", 1], "frames": False, "networks": True}
    run = server.run({"1": pictures, "2": {"class_type": "ExemplarMeasure", "inputs": inputs}})
    assert run.status == "success", run.error
    (plot,) = run.files["2"]
    assert Image.open(plot).size[0] == 900
    (text,) = run.texts["2"]
    assert text.startswith("1 picture\nmeasure") and "models/measure lacks a file" in text
    assert "PSNR, dB             infinite    infinite  higher  ColorMNet" in text
