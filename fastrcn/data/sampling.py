"""Which frames of a video a net reads, and one score for a video of the scores of its clips.

Karpathy et al. 2014 (CVPR); Simonyan and Zisserman 2014, arXiv 1406.2199; Donahue et al. 2015, arXiv 1411.4389;
Ng et al. 2015, arXiv 1503.08909; Carreira and Zisserman 2017, arXiv 1705.07750.

Every function gives indices of frames, int64, from a number of frames. A clip of ``length`` frames that are ``stride``
apart reaches over ``(length-1)*stride + 1`` frames, its span. A video that is shorter than that is refused, or with
``loop=True`` begun anew as often as it takes. For frames at another rate, index ``at_rate``'s result with a clip's.
"""

from fractions import Fraction

import torch

from fastrcn.data.checks import check_counts

AVERAGES = ("prob", "logit")


def _last_start(frames, length, stride, loop):
    """The last frame that a clip may begin with: 0 in a video that is looped."""
    check_counts(frames=frames, length=length, stride=stride)
    span = (length - 1) * stride + 1
    if frames < span and not loop:
        raise ValueError(f"frames: expected at least {span}, for {length} that are {stride} apart, got {frames}")
    return max(frames - span, 0)


def _clips(starts, frames, length, stride):
    """(K,length) from the first frame of each clip; past the end the video begins anew."""
    return (torch.as_tensor(starts, dtype=torch.int64)[:, None] + torch.arange(length) * stride) % frames


def random_clip(frames, length, *, stride=1, loop=False, generator=None):
    """A clip that begins anywhere where it still fits, all beginnings alike; a looped video begins at its first frame.

    Returns: (length,).
    Raises: ValueError naming the argument.
    """
    last = _last_start(frames, length, stride, loop)
    return _clips(torch.randint(last + 1, (1,), generator=generator), frames, length, stride)[0]


def uniform_clips(frames, length, count, *, stride=1, loop=False):
    """``count`` clips at equal distances, the first at the beginning, the last at the end; a single one in the middle.

    Beginnings are rounded to the nearest frame. Where the video has fewer than ``count`` of them, clips repeat.

    Returns: (count,length).
    Raises: ValueError naming the argument.
    """
    check_counts(count=count)
    last = _last_start(frames, length, stride, loop)
    if count == 1:
        return _clips([last // 2], frames, length, stride)
    starts = [(2 * k * last + count - 1) // (2 * (count - 1)) for k in range(count)]
    return _clips(starts, frames, length, stride)


def dense_clips(frames, length, step, *, stride=1, loop=False, rest="align"):
    """Clips that begin every ``step`` frames.

    Args:
        rest: where frames are left after the last of them: "align" adds a clip that ends with the video, as LRCN does;
            "drop" leaves those frames out.
    Returns: (K,length).
    Raises: ValueError naming the argument.
    """
    check_counts(step=step)
    if rest not in ("align", "drop"):
        raise ValueError(f'rest: expected "align" or "drop", got {rest!r}')
    last = _last_start(frames, length, stride, loop)
    starts = list(range(0, last + 1, step))
    if rest == "align" and starts[-1] < last:
        starts.append(last)
    return _clips(starts, frames, length, stride)


def whole_video(frames, *, stride=1, fewest=1):
    """Every ``stride``-th frame, as one clip: for nets that are fully convolutional in time, as I3D.

    A video with fewer than ``fewest`` such frames is begun anew until there are as many.

    Returns: (1,T).
    Raises: ValueError naming the argument.
    """
    check_counts(frames=frames, stride=stride, fewest=fewest)
    length = (frames - 1) // stride + 1
    return _clips([0], frames, length, stride) if length >= fewest else _clips([0], frames, fewest, stride)


def at_rate(frames, frame_rate, rate):
    """The frames that a video shows at another rate: of each moment k/``rate`` seconds the frame next to it.

    At a higher rate than the video's, frames repeat.

    Args:
        frame_rate, rate: frames per second, of the video and wanted.
    Returns: (T,), T = ceil of the duration times ``rate``, up to the rounding to frames.
    Raises: ValueError naming the argument.
    """
    check_counts(frames=frames)
    ratio = _rate("frame_rate", frame_rate) / _rate("rate", rate)
    indices, k = [], 0
    while (index := int(k * ratio + Fraction(1, 2))) < frames:
        indices.append(index)
        k += 1
    return torch.tensor(indices)


def _rate(name, value):
    if value <= 0:
        raise ValueError(f"{name}: expected a positive number of frames per second, got {value}")
    return Fraction(value)


def sparse_frames(frames, frame_rate, length=300, rate=1):
    """The first ``length`` frames at ``rate`` per second: minutes of a video in few frames (Ng et al. 2015).

    A shorter video is begun anew until there are ``length``.

    Returns: (length,).
    Raises: ValueError naming the argument.
    """
    check_counts(length=length)
    found = at_rate(frames, frame_rate, rate)
    return found[torch.arange(length) % len(found)]


def flow_pairs(indices, frames, frame_rate, rate=15):
    """The pairs of frames, 1/``rate`` seconds apart, whose flow goes with ``sparse_frames`` (Ng et al. 2015).

    Each frame and the one after that time (at least the next one); at the end of the video the pair that ends with it.

    Args:
        indices: (T,) of frames. frames: of the video, at least as many as a pair reaches over.
    Returns: (T,2).
    Raises: ValueError naming the argument.
    """
    check_counts(frames=frames)
    apart = max(1, int(_rate("frame_rate", frame_rate) / _rate("rate", rate) + Fraction(1, 2)))
    if frames <= apart:
        raise ValueError(f"frames: expected at least {apart + 1}, a pair, got {frames}")
    if indices.dim() != 1 or (len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < frames):
        raise ValueError(f"indices: expected (T,), each from 0 to {frames - 1}, got {indices}")
    first = indices.clamp(max=frames - 1 - apart)
    return torch.stack([first, first + apart], 1)


def average_scores(scores, average="prob", weights=None):
    """One score for each video (or clip) of the scores of its clips, crops or frames: their mean, or weighted mean.

    Args:
        scores: (N,K,...,classes), before softmax.
        average: "prob", the mean of the probabilities; "logit", of the scores before softmax.
        weights: (K,) or (N,K), not negative, not all 0 in a row; taken as shares of their sum.
    Shapes: -> (N,...,classes).
    Raises: ValueError naming the argument.
    """
    if average not in AVERAGES:
        raise ValueError(f"average: expected one of {', '.join(AVERAGES)}, got {average!r}")
    if scores.dim() < 3 or not scores.shape[1]:
        raise ValueError(f"scores: expected (N,K,...,classes) with at least one clip, got shape {tuple(scores.shape)}")
    values = scores.softmax(-1) if average == "prob" else scores
    if weights is None:
        return values.mean(1)
    weights = torch.as_tensor(weights, dtype=values.dtype, device=values.device)
    if weights.shape not in (scores.shape[1:2], scores.shape[:2]):
        expected = f"{tuple(scores.shape[1:2])} or {tuple(scores.shape[:2])}"
        raise ValueError(f"weights: expected shape {expected}, got {tuple(weights.shape)}")
    if not bool((weights >= 0).all()) or not bool((weights.sum(-1) > 0).all()):
        raise ValueError(f"weights: expected numbers that are not negative and not all 0, got {weights.tolist()}")
    shares = (weights / weights.sum(-1, keepdim=True)).expand(scores.shape[:2])
    return (values * shares[(...,) + (None,) * (values.dim() - 2)]).sum(1)
