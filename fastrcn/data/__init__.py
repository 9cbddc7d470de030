"""What models are fed with, made from videos."""

from fastrcn.data.flow_encoding import (
    FlowBytes,
    bidirectional_flow,
    flip_bytes,
    flip_flow,
    flip_flow_image,
    flip_stacked,
    flow_image,
    flow_windows,
    follow_trajectories,
    from_bytes,
    i3d_flow,
    stack_flow,
    to_bytes,
)
from fastrcn.data.optical_flow import optical_flow, tv_l1, warp

__all__ = [
    "FlowBytes",
    "bidirectional_flow",
    "flip_bytes",
    "flip_flow",
    "flip_flow_image",
    "flip_stacked",
    "flow_image",
    "flow_windows",
    "follow_trajectories",
    "from_bytes",
    "i3d_flow",
    "optical_flow",
    "stack_flow",
    "to_bytes",
    "tv_l1",
    "warp",
]
