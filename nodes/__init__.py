"""What the user sees. Thin V3 nodes: they check, call and return; the arithmetic is below."""

from . import (
    attention_map,
    color,
    colorize,
    concept,
    confidence,
    ddcolor,
    demo,
    demo_pictures,
    dual_attention,
    inversion,
    pivot,
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
    *demo.NODES,
    *demo_pictures.NODES,
]
