"""DeepLabV3 against torchvision's, its sizes as torchvision states them, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from official_checkpoints import filled
from torch.nn import functional as F
from tracing import traced

from binmat.errors import InputError, SizeError
from binmat.model_defs.deeplabv3 import PERSON, DeepLabV3
from binmat.model_defs.registry import NETWORKS, build
from binmat.reports import count


@pytest.mark.slow
def test_it_is_torchvisions() -> None:
    from foreign import torchvision_operators  # noqa: F401 - comes before torchvision

    models = pytest.importorskip("torchvision.models.segmentation")
    official = models.deeplabv3_resnet101(weights=None, weights_backbone=None, aux_loss=True, num_classes=21)
    net = filled(DeepLabV3(aux=True))
    assert list(net.state_dict()) == list(official.state_dict())
    official.load_state_dict(net.state_dict())
    x = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(net(x)["out"], official.eval()(x)["out"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_size_and_work_are_those_that_torchvision_states() -> None:
    """The weights COCO_WITH_VOC_LABELS_V1: 60,996,202 parameters, 258.743 G at 520x520 with the auxiliary head."""
    network = build("deeplabv3_resnet101", aux=True)
    assert sum(p.numel() for p in network.parameters()) == 60_996_202
    auxiliary = 65 * 65 * (1024 * 256 * 9 + 256 * 21)
    assert round((count(network, size=(520, 520)).total.flops + auxiliary) / 1e9, 3) == 258.743


@pytest.mark.parametrize("config", [{"classes": 21, "aux": True}, {"classes": 1, "aux": False}])
def test_the_checkpoint_tells_classes_and_auxiliary_head(config: dict) -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in DeepLabV3(**config).state_dict().items()}
    found = {name: known for name, spec in NETWORKS.items() if (known := spec.recognise(shapes)) is not None}
    assert found == {"deeplabv3_resnet101": config}


@pytest.mark.slow
@torch.no_grad()
def test_alpha_is_the_probability_of_a_person() -> None:
    net = filled(DeepLabV3())
    image = torch.rand(1, 3, 32, 48)
    logits = net(net.frame_inputs(image)["x"])["out"]
    assert torch.equal(traced(net, "matting")(net.frame_inputs(image)["x"]), logits)
    alpha = net.predict(image).alpha
    assert torch.equal(alpha, logits.softmax(1)[:, PERSON : PERSON + 1])
    small = net.predict(F.interpolate(image, (16, 24), mode="area")).alpha
    enlarged = F.interpolate(small, (32, 48), mode="bilinear")
    assert torch.equal(net.predict(image, downsample_ratio=0.5).alpha, enlarged)


def test_what_is_refused() -> None:
    image = torch.rand(1, 3, 32, 48)
    with torch.device("meta"):
        net, other = DeepLabV3(), DeepLabV3(classes=2)
    with pytest.raises(InputError, match="takes no trimap"):
        net.predict(image, trimap=image[:, :1])
    with pytest.raises(SizeError, match="size 8x12 is too small"):
        net.predict(image, downsample_ratio=0.25)
    with pytest.raises(InputError, match="which of the 2 classes is the subject"):
        other.predict(image)
