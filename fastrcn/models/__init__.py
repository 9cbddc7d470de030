"""Models of the documents, one paper per file, also by name: ``create``, ``list_models``, ``describe``."""

from fastrcn.losses import caption_nll, doubly_stochastic_penalty, frame_cross_entropy, gru_rcn_loss
from fastrcn.models.action_detection import I3DAVA, RoIHead, SlowFastAVA
from fastrcn.models.attention import Attention
from fastrcn.models.c3d import C3D
from fastrcn.models.c3d_batch_norm import C3DBatchNorm
from fastrcn.models.caffenet import AlexNet, CaffeNet
from fastrcn.models.cnn_m import CNNM2048
from fastrcn.models.cnn_rnn import CNNRNN
from fastrcn.models.conv_gru_forecaster import ConvGRUForecaster
from fastrcn.models.convnet_lstm import ConvNetLSTM
from fastrcn.models.decoding import beam_search, caption_lengths, greedy, sample
from fastrcn.models.early_fusion import EarlyFusion
from fastrcn.models.encoder_forecaster import EncoderForecaster
from fastrcn.models.fc_lstm_forecaster import FCLSTMForecaster
from fastrcn.models.fused_3d import TwoStream3DFused
from fastrcn.models.gru_rcn import GRURCN, fuse_rgb_flow, gru_parameter_counts
from fastrcn.models.gru_rcn_baselines import VGG16RNN, VGG16Frames
from fastrcn.models.gru_rcn_encoder import GRURCNEncoder
from fastrcn.models.hurricane import (
    HurricaneForecaster,
    HurricaneTracker,
    density_maps,
    local_maxima,
    strongest_positions,
)
from fastrcn.models.i3d import I3D
from fastrcn.models.i3d_two_stream import I3DTwoStream
from fastrcn.models.inception import InceptionV1
from fastrcn.models.inflate import boring_video, check_fixed_point, inflate, inflate_inception
from fastrcn.models.late_fusion import LateFusion, LateFusionPool
from fastrcn.models.lrcn import LRCN
from fastrcn.models.lrcn_caption import LRCNCaption
from fastrcn.models.multi_lstm import MultiLSTM
from fastrcn.models.non_local import NonLocalBlock
from fastrcn.models.recurrent_conv_net import RecurrentConvNet
from fastrcn.models.registry import create, describe, list_models
from fastrcn.models.resnet import ResNet50
from fastrcn.models.roi_align import roi_align
from fastrcn.models.seq2seq import Seq2SeqAttention
from fastrcn.models.short_snippets import ShortSnippetsPooling
from fastrcn.models.short_snippets_lstm import ShortSnippetsLSTM
from fastrcn.models.single_frame import SingleFrame, SingleFrameMultiresolution
from fastrcn.models.slow_fusion import SlowFusion
from fastrcn.models.slowfast import SlowFast, slow_frames
from fastrcn.models.soft_attention_caption import SoftAttentionCaption
from fastrcn.models.tal_net import TALNet
from fastrcn.models.transfer import (
    freeze_all_but_heads,
    heads_of,
    parameter_groups,
    prepare_transfer,
    replace_heads,
    unfreeze,
)
from fastrcn.models.two_stream import LinearSVM, TwoStream
from fastrcn.models.vgg import VGG16
from fastrcn.models.video_resnet import VideoResNet
from fastrcn.models.visual_attention import VisualAttentionLSTM
from fastrcn.models.youtube8m import YouTube8M

__all__ = [
    "C3D",
    "CNNM2048",
    "CNNRNN",
    "GRURCN",
    "I3D",
    "I3DAVA",
    "LRCN",
    "VGG16",
    "VGG16RNN",
    "AlexNet",
    "Attention",
    "C3DBatchNorm",
    "CaffeNet",
    "ConvGRUForecaster",
    "ConvNetLSTM",
    "EarlyFusion",
    "EncoderForecaster",
    "FCLSTMForecaster",
    "GRURCNEncoder",
    "HurricaneForecaster",
    "HurricaneTracker",
    "I3DTwoStream",
    "InceptionV1",
    "LRCNCaption",
    "LateFusion",
    "LateFusionPool",
    "LinearSVM",
    "MultiLSTM",
    "NonLocalBlock",
    "RecurrentConvNet",
    "ResNet50",
    "RoIHead",
    "Seq2SeqAttention",
    "ShortSnippetsLSTM",
    "ShortSnippetsPooling",
    "SingleFrame",
    "SingleFrameMultiresolution",
    "SlowFast",
    "SlowFastAVA",
    "SlowFusion",
    "SoftAttentionCaption",
    "TALNet",
    "TwoStream",
    "TwoStream3DFused",
    "VGG16Frames",
    "VideoResNet",
    "VisualAttentionLSTM",
    "YouTube8M",
    "beam_search",
    "boring_video",
    "caption_lengths",
    "caption_nll",
    "check_fixed_point",
    "create",
    "density_maps",
    "describe",
    "doubly_stochastic_penalty",
    "frame_cross_entropy",
    "freeze_all_but_heads",
    "fuse_rgb_flow",
    "greedy",
    "gru_parameter_counts",
    "gru_rcn_loss",
    "heads_of",
    "inflate",
    "inflate_inception",
    "list_models",
    "local_maxima",
    "parameter_groups",
    "prepare_transfer",
    "replace_heads",
    "roi_align",
    "sample",
    "slow_frames",
    "strongest_positions",
    "unfreeze",
]
