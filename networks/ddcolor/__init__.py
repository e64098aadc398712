"""DDColor (Kang et al., ICCV 2023): chroma of a gray picture in one forward pass. Start at :mod:`.load`."""
