"""What the user sees. Thin V3 nodes: they check, call and return; the arithmetic is below."""

from . import (
    attention_map,
    color,
    colorize,
    concept,
    confidence,
    control,
    ddcolor,
    deadiff,
    demo,
    demo_pictures,
    dual_attention,
    inversion,
    lcad,
    lcad_instances,
    pivot,
    referring_mask,
)

NODES = [
    *colorize.NODES,
    *inversion.NODES,
    *concept.NODES,
    *pivot.NODES,
    *dual_attention.NODES,
    *color.NODES,
    *attention_map.NODES,
    *ddcolor.NODES,
    *confidence.NODES,
    *lcad.NODES,
    *lcad_instances.NODES,
    *referring_mask.NODES,
    *control.NODES,
    *deadiff.NODES,
    *demo.NODES,
    *demo_pictures.NODES,
]
