"""Networks of torchvision, timm and segmentation-models-pytorch convert, count, export and verify as they come.

docs/foreign.md has all of them with float export and litert-torch beside them; `make foreign` makes it.
"""

from __future__ import annotations

import pytest
from foreign.check import stages
from foreign.networks import NETWORKS

import binmat

#: The smallest networks, one for each way in which networks are written.
QUICK = ("torchvision.shufflenet_v2_x0_5", "timm.resnet18_feat", "timm.levit_128s", "smp.Unet_timm")
#: Networks that take longer than a test should: the table alone has them.
TABLE_ONLY = ()
#: What each refusal says.
REFUSED: dict[str, str] = {}


TESTED = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NETWORKS if name not in TABLE_ONLY
]


@pytest.mark.parametrize("scheme", ["reactnet", "bnn"])
@pytest.mark.parametrize("name", TESTED)
def test_converts_counts_exports_and_verifies(name: str, scheme: str) -> None:
    passed = []
    if name not in REFUSED:
        passed += stages(NETWORKS[name], scheme)
        assert passed == ["build", "convert", "count", "export", "verify"]
        return
    with pytest.raises(binmat.BinmatError, match=REFUSED[name]) as refusal:
        passed += stages(NETWORKS[name], scheme)
    assert "\n" not in str(refusal.value)


def test_list_is_complete() -> None:
    assert len(NETWORKS) == 55
