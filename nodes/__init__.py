"""What the user sees. Thin V3 nodes: they check, call and return; the arithmetic is below.

:mod:`.widgets` makes widgets from settings, :mod:`.inputs` looks at what comes in through sockets, and :mod:`.guard`
stands around the work of every node. What several nodes ask of references is in :mod:`.references`, of what looks at
pictures for color memories in :mod:`.memory_inputs`.
"""

from . import (
    attention_map,
    clipseg,
    color,
    confidence,
    ddcolor,
    deadiff,
    doctor,
    embedded,
    exemplar,
    exemplar_auto,
    exemplar_stages,
    inversion,
    inversion_files,
    lcad,
    lcad_instances,
    match,
    measure,
    memory,
    memory_colorize,
    memory_files,
    photographs,
    published_sampler,
    steady,
    transfer,
    vct,
    vct_concept,
    vct_control,
    vct_pivot,
    video,
)
from .guard import guarded

_ALL = [
    *exemplar.NODES,
    *vct.NODES,
    *inversion.NODES,
    *inversion_files.NODES,
    *vct_concept.NODES,
    *vct_pivot.NODES,
    *exemplar_auto.NODES,
    *exemplar_stages.NODES,
    *published_sampler.NODES,
    *color.NODES,
    *attention_map.NODES,
    *ddcolor.NODES,
    *confidence.NODES,
    *lcad.NODES,
    *lcad_instances.NODES,
    *clipseg.NODES,
    *vct_control.NODES,
    *deadiff.NODES,
    *memory.NODES,
    *memory_colorize.NODES,
    *memory_files.NODES,
    *embedded.NODES,
    *doctor.NODES,
    *photographs.NODES,
    *transfer.NODES,
    *match.NODES,
    *measure.NODES,
    *steady.NODES,
    *video.NODES,
]

NODES = [guarded(node) for node in _ALL]
