"""Which settings a file may recommend, system by system. Loaders judge what a file says by these settings' bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..attention.dual_settings import DualAttentionSettings
from ..diffusion.inversion import InversionSettings
from ..diffusion.sampling import GuidanceSettings
from ..files import headers
from .ddcolor import AutoColorSettings
from .exemplar_settings import ColorizeSettings
from .lcad import BatchSettings, LCADSettings
from .memory_settings import MemorySettings, WritingSettings
from .vct import TranslateSettings
from .vct_concept import ConceptInversionSettings
from .vct_pair import ConceptFusionSettings
from .vct_pivot import PivotSettings

#: Beside each flow's own settings those of its single steps, which are nodes.
SYSTEMS: headers.Systems = {
    "ddcolor": (AutoColorSettings,),
    "exemplar": (ColorizeSettings, InversionSettings, DualAttentionSettings, GuidanceSettings),
    "lcad": (LCADSettings, BatchSettings),
    "memory": (MemorySettings, WritingSettings),
    "vct": (TranslateSettings, ConceptInversionSettings, ConceptFusionSettings, PivotSettings),
}


def read_recommended(path: str | Path) -> dict[str, dict[str, Any]]:
    """What a file recommends, by system: see ``files.headers.read_recommended``.

    :raises ValueError: one of its values is none that the setting can have; file and setting are named.
    """
    return headers.read_recommended(path, SYSTEMS)
