"""Networks of torchvision, timm and segmentation-models-pytorch convert, count, export and verify as they come.

`make foreign` tries all of them, with float export and litert-torch beside them, and writes docs/foreign.md.
"""

from __future__ import annotations

import pytest
from foreign.check import stages
from foreign.networks import NETWORKS

import binmat

#: Small networks, tokens and checks of sizes; tested quickly.
QUICK = ("timm.deit_tiny", "smp.PSPNet")
SCHEMES = ("reactnet", "bnn")
#: Networks that take 20 to 60 seconds with one scheme. `make foreign` checks them.
TABLE_ONLY = (
    "torchvision.vgg11_bn",
    "torchvision.vit_b_16",
    "torchvision.swin_v2_t",
    "torchvision.raft_small",
    "timm.mobileone_s0",
    "timm.swin_tiny_224",
)
#: What each refusal says.
REFUSED: dict[str, str] = {}


#: The quick ones with both schemes, the others with one, by turns.
TESTED = [
    pytest.param(name, scheme, marks=[] if name in QUICK else [pytest.mark.slow])
    for index, name in enumerate(NETWORKS)
    for scheme in (SCHEMES if name in QUICK else [SCHEMES[index % 2]])
    if name not in TABLE_ONLY
]


@pytest.mark.parametrize(("name", "scheme"), TESTED)
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
