"""A step captured in a CUDA graph."""

import torch


def captured(step):
    """(the graph, what ``step()`` returned while it was captured; a replay writes to these tensors).

    What a step returns is detached: an autograd graph that is alive keeps the nodes of its leaves, and these belong to
    the stream of that step.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    return graph, found
