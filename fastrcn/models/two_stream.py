"""Two-stream networks: one CNN sees a frame, the other the flow of ten; their scores are fused.

Simonyan and Zisserman 2014, https://arxiv.org/abs/1406.2199 (CNN-M-2048); Wang, Xiong, Wang and Qiao 2015,
https://arxiv.org/abs/1507.02159 (VGG-16); Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750 (Inception-v1).
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn.models.cnn_m import CNNM2048
from fastrcn.models.gru_rcn import fuse_rgb_flow
from fastrcn.models.inception import InceptionV1
from fastrcn.models.registry import register
from fastrcn.models.vgg import VGG16

CNNS: dict[str, Any] = {"cnn_m_2048": CNNM2048, "vgg16": VGG16, "inception_v1": InceptionV1}
FUSIONS = ("average", "weighted", "svm")


class LinearSVM(nn.Module):
    """Multiclass linear support vector machine of Crammer and Singer 2001, JMLR 2: the one that the paper cites.

    Minimises |W|^2 / 2 + C sum_n max_k (1[k != y_n] + s_nk - s_ny), with scores s = W [x; 1]; so the bias is penalised
    too, as in LIBLINEAR. Weight and bias are buffers: they are fitted, not trained by gradients of a net.

    Args:
        features: of a sample. num_classes: labels 0 to num_classes - 1.
        C: weight of the samples' losses.
    Shapes: (N,features) -> scores (N,num_classes); the largest is the class.
    Raises: ValueError naming the argument.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, features, num_classes, C=1.0):
        super().__init__()
        if C <= 0:
            raise ValueError(f"C: expected a positive number, got {C}")
        self.C = C
        self.register_buffer("weight", torch.zeros(num_classes, features))
        self.register_buffer("bias", torch.zeros(num_classes))

    def forward(self, x):
        """Scores of each class."""
        return F.linear(x, self.weight, self.bias)

    def objective(self, x, labels):
        """What ``fit`` minimises."""
        margins = self(x) + 1
        margins.scatter_add_(1, labels[:, None], -torch.ones_like(margins[:, :1]))
        losses = margins.amax(1) - margins.gather(1, labels[:, None])[:, 0]
        return (self.weight.square().sum() + self.bias.square().sum()) / 2 + self.C * losses.sum()

    def fit(self, x, labels):
        """Fit to all samples at once: L-BFGS on the objective with a soft maximum, ever closer to the maximum.

        The soft maximum t log sum exp(./t) exceeds the maximum by at most t log(num_classes); the last t is 0.001.
        """
        if x.dim() != 2 or x.shape[1] != self.weight.shape[1]:
            raise ValueError(f"x: expected (N,{self.weight.shape[1]}), got shape {tuple(x.shape)}")
        if labels.shape != x.shape[:1] or labels.min() < 0 or labels.max() >= len(self.weight):
            came = f"{tuple(labels.shape)} from {labels.min()} to {labels.max()}"
            raise ValueError(f"labels: expected ({len(x)},) from 0 to {len(self.weight) - 1}, got {came}")
        ones = torch.ones(len(x), 1, dtype=torch.float64, device=x.device)
        x = torch.cat([x.detach().double(), ones], 1)
        margin = 1 - F.one_hot(labels, len(self.weight)).double()
        w = torch.zeros(len(self.weight), x.shape[1], dtype=torch.float64, device=x.device, requires_grad=True)
        for t in (1.0, 0.1, 0.01, 1e-3):
            optimizer = torch.optim.LBFGS(
                [w], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
            )

            def closure(optimizer=optimizer, t=t):
                optimizer.zero_grad()
                scores = x @ w.T
                soft = t * torch.logsumexp((scores + margin) / t, 1) - scores.gather(1, labels[:, None])[:, 0]
                loss = w.square().sum() / 2 + self.C * soft.sum()
                loss.backward()
                return loss

            with torch.enable_grad():
                optimizer.step(closure)
        self.weight.copy_(w.detach()[:, :-1])
        self.bias.copy_(w.detach()[:, -1])
        return self


class MultiTask(nn.Module):
    """A net without its last layer, and a last layer for each of several data sets."""

    def __init__(self, trunk, features, classes):
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(features, n) for n in classes)

    def forward(self, x, task=0):
        """Scores before softmax in the classes of data set ``task``."""
        return self.heads[task](self.trunk(x))


def _features(cnn):
    """Numbers that a net of ``CNNS`` without its last layer gives."""
    if isinstance(cnn, InceptionV1):
        return cnn.out_channels
    return next(m.out_features for m in reversed(cnn.classifier) if isinstance(m, nn.Linear))


@register(
    "two_stream", paper="Simonyan and Zisserman 2014, arXiv 1406.2199",
    small={"num_classes": 5, "cnn_options": {"width": 3, "hidden": (12, 8), "size": 64}},
)  # fmt: skip
@register(
    "two_stream_very_deep", paper="Wang et al. 2015, arXiv 1507.02159", cnn="vgg16", fusion="weighted",
    small={"num_classes": 5, "cnn_options": {"width": 4, "hidden": 16, "size": 32}},
)  # fmt: skip
@register(
    "two_stream_inception", paper="Carreira and Zisserman 2017, arXiv 1705.07750", cnn="inception_v1", num_classes=400,
    dropout=0.2, small={"num_classes": 5, "cnn_options": {"width": 8, "size": 64}},
)  # fmt: skip
class TwoStream(nn.Module):
    """A spatial and a temporal CNN, trained apart, and the fusion of their softmax scores.

    Args:
        num_classes: outputs of both.
        cnn: "cnn_m_2048", whose temporal form has no second normalisation, "vgg16" or "inception_v1"; or a pair
            (spatial, temporal) of modules that give scores before softmax, of any kind.
        fusion: "average"; "weighted" (``weights``); "svm": a linear SVM on the scores of both, each scaled to length 1,
            side by side, to be fitted with ``fit_svm``.
        weights: of the spatial and the temporal stream; 1 to 2 in Wang et al.
        flow_length: fields that the temporal stream sees, as channels dx_1, dy_1, dx_2, dy_2, ... (``stack_flow``).
        auxiliary_classes: of a second data set that the temporal stream is trained on at the same time (UCF-101 with
            HMDB-51), with a last layer of its own: ``temporal(flow, task=1)``, whose cross-entropy is added.
        dropout: of both CNNs: 0.9 in the two-stream papers.
        svm_c: the SVM's C.
        cnn_options: for both CNNs, such as ``size``; for a ``cnn`` that is a name.
    Shapes: rgb (N,3,224,224), flow (N,2*flow_length,224,224) -> (N,num_classes): fused probabilities, or the SVM's
        scores.
    Raises: ValueError naming the argument.

    For training take ``spatial(rgb)`` and ``temporal(flow)``: scores before softmax, and a loss for each.
    """

    def __init__(
        self, num_classes=101, cnn: Any = "cnn_m_2048", *, fusion="average", weights=(1.0, 2.0), flow_length=10,
        auxiliary_classes=None, dropout=0.9, svm_c=1.0, cnn_options=None,
    ):  # fmt: skip
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion: expected one of {', '.join(FUSIONS)}, got {fusion!r}")
        self.fusion, self.weights, self.flow_channels = fusion, tuple(weights), 2 * flow_length
        if isinstance(cnn, str):
            if cnn not in CNNS:
                raise ValueError(f"cnn: expected one of {', '.join(CNNS)} or a pair of modules, got {cnn!r}")
            options: Any = {"dropout": dropout, **(cnn_options or {})}
            self.spatial = CNNS[cnn](num_classes, 3, **options)
            if cnn == "cnn_m_2048":
                options["second_norm"] = False
            if auxiliary_classes is None:
                self.temporal = CNNS[cnn](num_classes, self.flow_channels, **options)
            else:
                trunk = CNNS[cnn](None, self.flow_channels, **options)
                self.temporal = MultiTask(trunk, _features(trunk), (num_classes, auxiliary_classes))
        else:
            if not isinstance(cnn, (tuple, list)) or len(cnn) != 2:
                raise ValueError(f"cnn: expected one of {', '.join(CNNS)} or a pair of modules, got {cnn!r}")
            if cnn_options is not None or auxiliary_classes is not None:
                raise ValueError("cnn_options, auxiliary_classes: expected None with modules that are made already")
            self.spatial, self.temporal = cnn
        self.svm = LinearSVM(2 * num_classes, num_classes, svm_c) if fusion == "svm" else None

    @property
    def heads(self):
        """Names of the last layers, of the first data set where there are two."""
        temporal = ("heads.0",) if isinstance(self.temporal, MultiTask) else self.temporal.heads
        return (*(f"spatial.{name}" for name in self.spatial.heads), *(f"temporal.{name}" for name in temporal))

    def _fuse(self, spatial, temporal):
        """Of probabilities (N,num_classes)."""
        if self.svm is not None:
            return self.svm(torch.cat([F.normalize(spatial), F.normalize(temporal)], 1))
        return fuse_rgb_flow(spatial, temporal, self.weights if self.fusion == "weighted" else (1.0, 1.0))

    def forward(self, rgb, flow):
        """Fused scores of one frame and one stack of flow."""
        return self._fuse(self.spatial(rgb).softmax(1), self.temporal(flow).softmax(1))

    def _over_positions(self, rgb, flow):
        """Probabilities of each stream, the mean over a video's positions."""
        for name, x in {"rgb": rgb, "flow": flow}.items():
            if x.dim() != 5 or x.shape[1] == 0:
                raise ValueError(f"{name}: expected (N,K,C,H,W) with at least one position, got {tuple(x.shape)}")
        pairs = ((self.spatial, rgb), (self.temporal, flow))
        return [net(x.flatten(0, 1)).softmax(1).unflatten(0, x.shape[:2]).mean(1) for net, x in pairs]

    def predict(self, rgb, flow):
        """Fused scores (N,num_classes) of videos, from the mean of each stream's over positions and crops.

        Shapes: rgb (N,K,3,224,224), flow (N,K,2*flow_length,224,224). The papers take 25 frames an equal time apart,
        the first also 10 crops of each: K 250. The streams may have different K.
        """
        return self._fuse(*self._over_positions(rgb, flow))

    @torch.no_grad()
    def fit_svm(self, spatial, temporal, labels):
        """Fit the SVM to the probabilities (N,num_classes) that the streams give the training videos."""
        if self.svm is None:
            raise ValueError(f'fusion: expected "svm", got {self.fusion!r}')
        self.svm.fit(torch.cat([F.normalize(spatial), F.normalize(temporal)], 1), labels)
        return self

    @torch.no_grad()
    def start_flow_from_rgb(self):
        """Start the temporal stream from the spatial one, both VGG-16, as Wang et al. do with the ImageNet net.

        The first convolution by ``VGG16.load_rgb_stem``; the last layer stays as it is.
        """
        trunk = self.temporal.trunk if isinstance(self.temporal, MultiTask) else self.temporal
        if not isinstance(self.spatial, VGG16) or not isinstance(trunk, VGG16):
            kinds = f"{type(self.spatial).__name__} and {type(trunk).__name__}"
            raise ValueError(f"cnn: expected VGG16 for both streams, got {kinds}")
        weights = self.spatial.state_dict()
        trunk.load_rgb_stem(weights["features.0.weight"])
        own = {n: v for n, v in trunk.state_dict().items() if n == "features.0.weight" or n.startswith("classifier.6.")}
        trunk.load_state_dict({n: own.get(n, weights[n]) for n in trunk.state_dict()})
        return self

    def example_inputs(self, batch=1):
        """Arguments of a forward pass with CNNs that were asked for by name."""
        size = getattr(self.spatial, "size", None)
        if size is None:
            raise ValueError("cnn: only the input of those with a name is known")
        return torch.randn(batch, 3, size, size), torch.randn(batch, self.flow_channels, size, size)
