"""A step captured in a CUDA graph."""

import torch


def captured(step):
    """(the graph, the tensors that ``step()`` returned while it was captured; a replay writes to these).

    No autograd graph of an earlier step with the same leaves may be alive: it keeps their nodes, which belong to
    another stream.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = [t.detach() for t in step()]
    return graph, found
