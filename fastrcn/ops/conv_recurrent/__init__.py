"""A recurrent cell over a whole sequence: the operator, its plain form and its fused forms."""
