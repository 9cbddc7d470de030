"""What a class score depends on in its inputs: Simonyan et al. 2013, https://arxiv.org/abs/1312.6034, section 3."""

import torch


def class_scores(scores, classes):
    """For each example the score of its class: (N,K) and one class, or one for each example -> (N,).

    Raises: ValueError naming the argument.
    """
    if scores.dim() != 2:
        raise ValueError(f"model: expected scores (N,classes), got shape {tuple(scores.shape)}")
    chosen = torch.as_tensor(classes, device=scores.device)
    if chosen.shape not in ((), (len(scores),)) or chosen.is_floating_point():
        raise ValueError(f"classes: expected an int, or {len(scores)} of them, got {classes!r}")
    if chosen.numel() and (chosen.min() < 0 or chosen.max() >= scores.shape[1]):
        raise ValueError(f"classes: expected classes of 0 to {scores.shape[1] - 1}, got {classes!r}")
    return scores.gather(1, chosen.expand(len(scores))[:, None].long())[:, 0]


def as_inputs(inputs, name="inputs") -> tuple[torch.Tensor, ...]:
    """The inputs of a model as a tuple: a tensor alone is the only one. Raises ValueError naming the argument."""
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    if not inputs or not all(isinstance(x, torch.Tensor) and x.is_floating_point() for x in inputs):
        raise ValueError(f"{name}: expected a tensor of floating point, or several of them")
    return inputs


def class_score_gradients(model, inputs, classes) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Forward pass to a class score, backward pass to every input: d s_c / d image, d s_c / d flow.

    The model's parameters keep the gradients that they have. In evaluation mode an example's gradient depends on that
    example alone; with batch normalisation in training mode it does not.

    Args:
        model: called with the inputs, returns scores before softmax (N,classes).
        inputs: a tensor, or several (an image and a flow, say), each (N,...).
        classes: an int, or one for each example (N,).
    Returns: the scores of these classes (N,), and a gradient for each input, of its shape.
    Raises: ValueError naming the argument.
    """
    inputs = tuple(x.detach().requires_grad_() for x in as_inputs(inputs))
    scores = class_scores(model(*inputs), classes)
    return scores.detach(), torch.autograd.grad(scores.sum(), inputs)


def saliency(gradient):
    """How much a small change of each place would change the score: the largest absolute value over the channels.

    Shapes: (N,C,...) -> (N,...).
    Raises: ValueError naming the argument.
    """
    if gradient.dim() < 2:
        raise ValueError(f"gradient: expected (N,C,...), got shape {tuple(gradient.shape)}")
    return gradient.abs().amax(1)


def contribution(gradient, input, baseline):
    """How much of the score a place's difference from a baseline makes, to first order: the sum over channels of
    gradient * (input - baseline). For a linear model the sum over all places is the difference of the two scores.

    With a clip's mean over time as its baseline, the places whose motion speaks for the class are positive.

    Shapes: (N,C,...) -> (N,...).
    Raises: ValueError naming the argument.
    """
    if gradient.shape != input.shape:
        raise ValueError(f"gradient: expected the input's shape {tuple(input.shape)}, got {tuple(gradient.shape)}")
    return (gradient * (input - baseline)).sum(1)
