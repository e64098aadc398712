"""Rotary positions (RoPE, arXiv 2104.09864): queries and keys turned by their tokens' places, and turned back.

Every pair of a head's channels is a plane in which a token is turned by its place times the pair's frequency, so that
the dot product of a query and a key depends on how far apart they are. Turned back, it depends on what they look like.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """How the tokens of a layer were turned.

    :param matrices: (1 or rows, N, d / 2, 2, 2), one a token and pair of channels; N is 1 where all turn alike.
    :param halves: a pair is channels i and i + d / 2 of a head; else 2 i and 2 i + 1.
    """

    matrices: Tensor
    halves: bool = False

    def turned(self, tokens: Tensor, heads: int) -> Tensor:
        """(rows, N, heads · d) -> the same turned, in its own dtype."""
        return self._applied(self.matrices, tokens, heads)

    def back(self, tokens: Tensor, heads: int) -> Tensor:
        """Turned tokens, (rows, N, heads · d), as they were before."""
        return self._applied(self.matrices.transpose(-1, -2), tokens, heads)

    def of_rows(self, rows: list[int]) -> Rotation:
        """Those of some rows."""
        return self if len(self.matrices) == 1 else replace(self, matrices=self.matrices[rows])

    def shift(self, grid: tuple[int, int]) -> Rotation:
        """What puts tokens that are turned one width of the grid further right: beside the picture, not on it.

        Told from the matrices alone, since turning by two places one after the other is turning by their sum.

        :param grid: (height, width) of the N tokens, at least two wide.
        :returns: for any number of tokens.
        """
        first = self.matrices[:, :1]
        step = self.matrices[:, 1:2] @ first.transpose(-1, -2)
        across = self.matrices[:, grid[1] - 1 : grid[1]] @ first.transpose(-1, -2)
        return replace(self, matrices=step @ across)

    def _applied(self, matrices: Tensor, tokens: Tensor, heads: int) -> Tensor:
        by_head = tokens.unflatten(-1, (heads, -1)).to(matrices.dtype)
        pairs = by_head.unflatten(-1, (2, -1)).transpose(-1, -2) if self.halves else by_head.unflatten(-1, (-1, 2))
        matrices = matrices.expand(*tokens.shape[:2], -1, -1, -1)
        turned = torch.einsum("bnpij,bnhpj->bnhpi", matrices, pairs)
        turned = turned.transpose(-1, -2) if self.halves else turned
        return turned.flatten(-2).flatten(-2).to(tokens.dtype)
