"""How numbers that fall to either side of a border are compared."""

import os

#: Whether the sets are those of the repository. None of their numbers lies on a border, so nothing of them may jump.
COMMITTED = not os.environ.get("EXEMPLAR_PARITY_DIR")

#: Which share of values may differ by more than the set allows, and by how many levels. A decoded number within the
#: last bits of a whole level is cut to either side of it. That level is a step or two of the 8-bit Lab that follows,
#: which matching the reference's statistics makes wider: single pixels jump, whatever is computed right.
JUMPED, JUMP = 1e-3, 16


def check_levels(found, expected, allowed, what=""):
    """Whole numbers of one shape: nearly all the same to the levels allowed, single ones a jump apart."""
    assert found.shape == expected.shape, what
    difference = (found.int() - expected.int()).abs()
    share = float((difference > allowed).float().mean())
    assert share <= (0 if COMMITTED else JUMPED), (
        f"{what}: {share:.2%} of the values are more than {allowed} levels off"
    )
    assert int(difference.max()) <= JUMP, f"{what}: {int(difference.max())} levels off"
