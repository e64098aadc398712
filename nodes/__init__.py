"""What the user sees. Thin V3 nodes: they check, call and return; the arithmetic is below."""

from . import attention_map, color, colorize, confidence, ddcolor, demo, demo_pictures, dual_attention, inversion, lcad

NODES = [
    *colorize.NODES,
    *inversion.NODES,
    *dual_attention.NODES,
    *color.NODES,
    *attention_map.NODES,
    *ddcolor.NODES,
    *confidence.NODES,
    *lcad.NODES,
    *demo.NODES,
    *demo_pictures.NODES,
]
