"""Whole flows over a host, and the settings that a user can choose.

A file is named after its system, such as :mod:`.exemplar`; where one grew long, its parts stand beside it
(``exemplar_...``). Start at :mod:`.host`,
what a flow asks of a host, and :mod:`.ddcolor`, the shortest flow. Settings are described in :mod:`..settings`.
"""
