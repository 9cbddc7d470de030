"""A net with published weights finds the same cuts in its video after ``fastrcn.fuse``.

Inference only: the net writes over what its own backward needs.
"""

import fastrcn
from benchmarks import trained_net
from tests.helpers.tolerances import assert_close


def test_same_cuts():
    plain = trained_net.load_net()
    fused, report = trained_net.fused(plain)
    assert [entry.modules[0] for entry in report.replaced] == [f"SDDCNN.{k}.DDCNN.0.bn" for k in range(3)]
    assert isinstance(fused.SDDCNN[0].DDCNN[0].bn, fastrcn.BatchNormReLUPool3d)
    assert list(fused.state_dict()) == list(plain.state_dict())
    window = trained_net.read_frames(100)[None]
    expected, found = trained_net.predict(plain, window), trained_net.predict(fused, window)
    assert_close(found, expected)
    assert (expected > 0).flatten().nonzero().flatten().tolist() == [1, 49, 60]
    assert (found > 0).flatten().nonzero().flatten().tolist() == [1, 49, 60]
