"""What the backend of a call of conv_recurrent is chosen by."""

Subject = tuple[str, int]
"""A cell's key, and how many axes its maps have: 2 (H,W) or 3 (D,H,W). A plain tuple, which compilers can trace."""


def subject_of(key, input) -> Subject:
    """That of a cell, by its key, on a sequence (T,B,C,H,W) or (T,B,C,D,H,W)."""
    return key, 3 if input.dim() == 6 else 2
