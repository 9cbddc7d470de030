"""What the backend of a call of conv_recurrent is chosen by."""

Subject = tuple[str, int]
"""A cell's key, and how many axes its maps have: 2 (H,W) or 3 (D,H,W). A plain tuple, which compilers can trace."""


def subject_of(cell, input) -> Subject:
    """That of a cell on a sequence (T,B,C,H,W) or (T,B,C,D,H,W)."""
    return cell.key, 3 if input.dim() == 6 else 2
