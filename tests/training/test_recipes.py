"""Every model that labelled videos can train: what goes in, its loss, its scores."""

import pytest
import torch
from torch.nn import functional as F

from fastrcn import data, models
from fastrcn.training.build import Clips
from fastrcn.training.config import Config
from fastrcn.training.recipes import forecast_loss, is_forecaster, recipe_of
from fastrcn.training.tasks import Classifier

pytestmark = pytest.mark.usefixtures("one_thread")

OTHER_DATA = {  # captions, boxes, segments, maps, features, or flow around every frame
    "GRURCNEncoder", "HurricaneTracker", "I3DAVA", "LRCNCaption", "MultiLSTM", "Seq2SeqAttention", "SlowFastAVA",
    "SoftAttentionCaption", "TALNet", "TwoStream3DFused", "VisualAttentionLSTM", "YouTube8M",
}  # fmt: skip


def one_of_each_class():
    found = {}
    for name in models.list_models():
        entry = models.describe(name)
        if not is_forecaster(entry.model):
            found.setdefault((entry.model.__name__, name == "i3d_flow"), name)
    return sorted(found.values())


@pytest.mark.parametrize("name", one_of_each_class())
def test_trains_on_what_the_dataset_gives(name):
    config = Config(model=name, small=True)
    if models.describe(name).model.__name__ in OTHER_DATA:
        with pytest.raises(ValueError, match=f"{models.describe(name).model.__name__} cannot be trained by this"):
            Clips(config)
        return
    clips = Clips(config)
    protocol, inputs = clips.protocol, clips.recipe.inputs
    length, size = len(protocol.train_clip(10_000)), protocol.train_crop.keywords["size"]
    parts = []
    if inputs != "flow":
        parts.append(torch.rand(2, length, 3, size, size))
    if inputs != "frames":
        parts.append(torch.randn(2, length, 2, size, size))
    model = models.create(name, small=True)
    objective = Classifier(model, clips.recipe, *clips.recipe.colors)
    loss = objective(*parts, labels=torch.tensor([0, 1]))
    loss.backward()
    assert loss.dim() == 0
    assert bool(loss.isfinite())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        scores = objective.eval()(*parts)
    assert scores.shape[0] == 2
    assert scores.dim() == 2
    assert torch.allclose(scores.softmax(1).sum(1), torch.ones(2))


def scores_and_loss(name, *parts, **options):
    torch.manual_seed(0)
    model = models.create(name, small=True, **options).eval()
    recipe = recipe_of(model)
    arguments = recipe.arrange(model, *parts)
    with torch.no_grad():
        return model, recipe.scores(model, arguments), recipe.loss(model, arguments, torch.tensor([1, 0]))


def test_clips_of_3d_nets_have_time_behind_colour():
    frames = torch.rand(2, 16, 3, 48, 48)
    model, scores, loss = scores_and_loss("c3d", frames)
    expected = model(frames.permute(0, 2, 1, 3, 4))
    assert torch.equal(scores, expected)
    assert torch.equal(loss, F.cross_entropy(expected, torch.tensor([1, 0])))


def test_frames_are_scaled_as_the_model_is_used_to():
    frames = torch.rand(2, 65, 3, 8, 8)
    model, _, _ = scores_and_loss("i3d_rgb", frames)
    found = Classifier(model, recipe_of(model), *recipe_of(model).colors)(frames)
    assert torch.allclose(found, model(2 * frames.transpose(1, 2) - 1), atol=1e-5)
    clip = torch.rand(2, 16, 3, 48, 48)
    model, _, _ = scores_and_loss("c3d", clip)
    found = Classifier(model, recipe_of(model), *recipe_of(model).colors)(clip)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.allclose(found, model(((clip - mean) / std).transpose(1, 2)), atol=1e-5)


def test_flow_of_i3d_is_clipped_and_scaled():
    flow = 30 * torch.randn(2, 65, 2, 8, 8)
    model, scores, _ = scores_and_loss("i3d_flow", flow)
    assert torch.allclose(scores, model((flow.clamp(-20, 20) / 20).transpose(1, 2)), atol=1e-6)


def test_two_streams_are_trained_apart_and_fused_in_tests():
    frames, flow = torch.rand(2, 10, 3, 64, 64), torch.randn(2, 10, 2, 64, 64)
    model, scores, loss = scores_and_loss("two_stream", frames, flow)
    stacked, labels = data.stack_flow(flow), torch.tensor([1, 0])
    spatial, temporal = model.spatial(frames[:, 0]), model.temporal(stacked)
    assert torch.allclose(loss, F.cross_entropy(spatial, labels) + F.cross_entropy(temporal, labels))
    assert torch.allclose(scores.exp(), (spatial.softmax(1) + temporal.softmax(1)) / 2)


def test_steps_are_all_trained_and_averaged():
    frames = torch.rand(2, 16, 3, 67, 67)
    model, scores, loss = scores_and_loss("lrcn", frames)
    steps = model(frames)
    assert torch.allclose(scores.exp(), steps.softmax(2).mean(1))
    assert torch.allclose(loss, F.cross_entropy(steps.flatten(0, 1), torch.tensor([1] * 16 + [0] * 16)))


def test_slowfast_sees_two_speeds():
    frames = torch.rand(2, 16, 3, 48, 48)
    model, scores, _ = scores_and_loss("slowfast_4x16_r50", frames)
    assert torch.equal(scores, model(*model.pathways(frames.transpose(1, 2))))


def test_image_nets_see_one_frame():
    with pytest.raises(ValueError, match="expected clips of 1 frame, got 4"):
        scores_and_loss("alexnet", torch.rand(2, 4, 3, 64, 64))


def test_clips_have_the_models_size_unless_another_is_asked_for():
    def crop_and_length(**options):
        protocol = Clips(Config(model="c3d", **options)).protocol
        assert protocol.resize[1] >= protocol.test_crops.keywords["size"]
        return protocol.train_crop.keywords["size"], len(protocol.train_clip(100))

    assert crop_and_length() == (112, 16)
    assert crop_and_length(size=224, frames=32) == (224, 32)
    assert crop_and_length(small=True) == (48, 16)
    with pytest.raises(ValueError, match=r"protocol: expected one of .*two_stream.*, got 'mine'"):
        Clips(Config(model="c3d", protocol="mine"))


def test_forecast_loss_counts_what_is_known():
    predicted, future = torch.tensor([[0.5, 1.0], [0.0, 9.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    valid = torch.tensor([[True, True], [True, False]])
    assert float(forecast_loss(predicted, future, valid, "mse")) == pytest.approx((0.25 + 0 + 1) / 3)
    known = -torch.log(torch.tensor([0.5, 1.0, 0.25]))
    predicted = torch.tensor([[0.5, 1.0], [0.25, 0.9]])
    assert float(forecast_loss(predicted, future, valid, "cross_entropy")) == pytest.approx(float(known.mean()))
    assert float(forecast_loss(predicted, future, valid & False, "mse")) == 0


def test_cross_entropy_of_what_is_no_probability():
    inside, valid = torch.full((2, 2), 0.5), torch.ones(2, 2, dtype=torch.bool)
    for predicted, future, name in ((inside + 1, inside, "forecasts"), (inside, inside - 1, "data")):
        with pytest.raises(ValueError, match=f"loss: cross_entropy needs {name} from 0 to 1"):
            forecast_loss(predicted, future, valid, "cross_entropy")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert forecast_loss(inside.bfloat16(), inside, valid, "cross_entropy").dtype == torch.float32
