"""How each model is fed with clips, what it is trained to minimise, and what its scores are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from fastrcn import losses, models
from fastrcn.data import i3d_flow, stack_flow


class Recipe(NamedTuple):
    """One way to train and judge.

    inputs: what ``fastrcn.data.VideoFolder`` gives: "frames", "flow" or "both". protocol: a name in
    ``fastrcn.data.PROTOCOLS``. arrange: (model, then frames (N,T,3,H,W), flow (N,T,2,H,W) or both) -> its arguments.
    loss: (model, arguments, labels (N,)) -> a number. scores: (model, arguments) -> (N,num_classes) before softmax, or
    logarithms of probabilities, which are the same to a softmax. shape: arguments -> frames of a clip, side of a frame.
    colors: mean and standard deviation of red, green and blue that the model's inputs are usually scaled by.
    """

    inputs: str
    protocol: str
    arrange: Callable[..., tuple]
    shape: Callable[[tuple], tuple[int, int]]
    loss: Callable[..., torch.Tensor]
    scores: Callable[..., torch.Tensor]
    colors: tuple[tuple[float, ...], tuple[float, ...]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's


_FROM_MINUS_1_TO_1 = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _log(probabilities):
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _cross_entropy(model, arguments, labels):
    return F.cross_entropy(model(*arguments), labels)


def _scores(model, arguments):
    return model(*arguments)


def _step_loss(model, arguments, labels):
    return losses.step_cross_entropy(model(*arguments), labels)


def _weighted_step_loss(model, arguments, labels):
    return losses.weighted_step_cross_entropy(model(*arguments), labels)


def _predicted(model, arguments):
    return _log(model.predict(*arguments))


def _many_to_one_or_many(model, arguments, labels):
    scores = model(*arguments)
    return losses.step_cross_entropy(scores, labels) if scores.dim() == 3 else F.cross_entropy(scores, labels)


def _mean_over_steps(model, arguments):
    scores = model(*arguments)
    return _log(scores.softmax(-1).mean(1)) if scores.dim() == 3 else scores


def _every_frame_loss(model, arguments, labels):
    frames = arguments[0].transpose(1, 2)
    return F.cross_entropy(model.image_logits(frames.flatten(0, 1)), labels.repeat_interleave(frames.shape[1]))


def _average_of_frames(model, arguments):
    scores = model(*arguments)
    return _log(scores) if model.average == "prob" else scores


def _with_levels_loss(model, arguments, labels):
    return losses.gru_rcn_loss(model(*arguments)[1], labels)


def _with_frames_loss(model, arguments, labels):
    return losses.step_cross_entropy(model(*arguments)[1], labels)


def _averaged(model, arguments):
    scores = model(*arguments)[0]
    return _log(scores) if model.average == "probabilities" else scores


def _streams_loss(first, second):
    """Both streams are trained apart, each with a loss of its own."""

    def loss(model, arguments, labels):
        streams = getattr(model, first), getattr(model, second)
        return torch.stack([F.cross_entropy(n(x), labels) for n, x in zip(streams, arguments, strict=True)]).sum()

    return loss


def _two_stream_scores(model, arguments):
    if model.fusion == "svm":
        raise ValueError(
            'model: a fusion of "svm" is fitted by hand (TwoStream.fit_svm); train with "average" or "weighted"'
        )
    return _log(model(*arguments))


def _i3d_two_stream_scores(model, arguments):
    scores = model(*arguments)
    return _log(scores) if model.fuse == "probabilities" else scores


def _frames_and_side(axis, argument=0):
    return lambda arguments: (arguments[argument].shape[axis], arguments[argument].shape[-1])


_OF_CLIP, _OF_STEPS = _frames_and_side(2), _frames_and_side(1)


def _image(model, frames):
    if frames.shape[1] != 1:
        raise ValueError(f"frames: this model sees one image, expected clips of 1 frame, got {frames.shape[1]}")
    return (frames[:, 0],)


def _clip(model, frames):
    return (frames.transpose(1, 2),)


def _steps(model, frames):
    return (frames,)


def _pathways(model, frames):
    return model.pathways(frames.transpose(1, 2))


def _flow_clip(model, flow):
    return (i3d_flow(flow),)


def _frame_and_stack(model, frames, flow):
    return frames[:, 0], stack_flow(flow)


def _clip_and_flow(model, frames, flow):
    return frames.transpose(1, 2), i3d_flow(flow)


def _one_label(arrange, protocol, shape=_OF_CLIP, inputs="frames"):
    return Recipe(inputs, protocol, arrange, shape, _cross_entropy, _scores)


_NETS: dict[type, Recipe] = {
    **dict.fromkeys(
        (models.AlexNet, models.CaffeNet, models.CNNM2048, models.InceptionV1, models.ResNet50, models.VGG16),
        _one_label(_image, "two_stream", lambda given: (1, given[0].shape[-1])),
    ),
    **dict.fromkeys(
        (models.C3D, models.C3DBatchNorm, models.EarlyFusion, models.LateFusion, models.LateFusionPool,
         models.SlowFusion),
        _one_label(_clip, "c3d"),
    ),
    **dict.fromkeys(
        (models.SingleFrame, models.SingleFrameMultiresolution),
        Recipe("frames", "c3d", _clip, _OF_CLIP, _every_frame_loss, _average_of_frames),
    ),
    models.SlowFast: _one_label(_pathways, "slowfast", _frames_and_side(2, 1)),
    models.VideoResNet: _one_label(_clip, "slowfast"),
    models.CNNRNN: Recipe("frames", "lrcn", _steps, _OF_STEPS, _many_to_one_or_many, _mean_over_steps),
    models.LRCN: Recipe("frames", "lrcn", _steps, _OF_STEPS, _step_loss, _predicted),
    models.ConvNetLSTM: Recipe("frames", "convnet_lstm", _steps, _OF_STEPS, _step_loss, _predicted),
    models.ShortSnippetsLSTM: Recipe("frames", "c3d", _steps, _OF_STEPS, _weighted_step_loss, _predicted),
    **dict.fromkeys((models.ShortSnippetsPooling, models.RecurrentConvNet), _one_label(_steps, "c3d", _OF_STEPS)),
    models.VGG16RNN: _one_label(_steps, "gru_rcn", _OF_STEPS),
    models.VGG16Frames: Recipe("frames", "gru_rcn", _steps, _OF_STEPS, _with_frames_loss, _averaged),
    models.GRURCN: Recipe("frames", "gru_rcn", _steps, _OF_STEPS, _with_levels_loss, _averaged),
    models.I3DTwoStream: Recipe(
        "both", "i3d", _clip_and_flow, _OF_CLIP, _streams_loss("rgb", "flow"), _i3d_two_stream_scores,
        _FROM_MINUS_1_TO_1,
    ),
    models.TwoStream: Recipe(
        "both", "two_stream_flow", _frame_and_stack, lambda given: (given[1].shape[1] // 2, given[1].shape[-1]),
        _streams_loss("spatial", "temporal"), _two_stream_scores,
    ),
}  # fmt: skip
_FORECASTERS = (
    models.EncoderForecaster, models.ConvGRUForecaster, models.FCLSTMForecaster, models.HurricaneForecaster
)  # fmt: skip


def is_forecaster(kind) -> bool:
    """Whether models of this class predict frames: ``model(past, horizon)``."""
    return kind in _FORECASTERS


def recipe_of(model, kind=None) -> Recipe:
    """The recipe of a model; ``kind``: another class, whose recipe is taken.

    Raises: ValueError for models that labelled videos alone cannot train.
    """
    kind = kind or type(model)
    if kind is models.I3D:
        if model.in_channels == 2:
            return _one_label(_flow_clip, "i3d", inputs="flow")
        return _one_label(_clip, "i3d")._replace(colors=_FROM_MINUS_1_TO_1)
    if kind not in _NETS:
        raise ValueError(
            f"model: {kind.__name__} cannot be trained by this command, which has clips with a class each and nothing "
            "else (no captions, boxes, segments, features of others, or flow around each frame): see fastrcn.losses "
            "and fastrcn.metrics"
        )
    return _NETS[kind]


def forecast_loss(predicted, future, valid, loss) -> Any:
    """The mean over values of the future that are known: squared error, or cross-entropy of values from 0 to 1."""
    predicted = predicted.float()
    with torch.autocast(predicted.device.type, enabled=False):  # which refuses this cross-entropy on GPUs
        if loss == "mse":
            errors = F.mse_loss(predicted, future, reduction="none")
        else:
            for name, values in (("forecasts", predicted), ("data", future)):
                low, high = values.detach().amin(), values.detach().amax()
                if bool((low < 0) | (high > 1)):
                    came = f"{float(low):.4g} to {float(high):.4g}"
                    raise ValueError(f"loss: cross_entropy needs {name} from 0 to 1, got {came}; take mse")
            errors = F.binary_cross_entropy(predicted, future, reduction="none")
    return errors.masked_fill(~valid, 0).sum() / valid.sum().clamp_min(1)
