"""What differs between a GPU and the CPU, as far as it can be seen without a GPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fgvc_lib.cnn import resnet18
from fgvc_lib.datasets import eval_loader, normalisation, open_splits
from fgvc_lib.experiments import bench
from fgvc_lib.machine.device import best_device
from fgvc_lib.part_selection import FUSIONS, RANDOM
from fgvc_lib.saliency import fgsm, input_gradient
from fgvc_lib.training import contrastive_loss
from fgvc_lib.vit import VisionTransformer, ViTConfig

CONFIG = ViTConfig(image_size=48, dim=32, depth=3, heads=4, mlp_dim=64, num_classes=5, dropout=0.1)


META = torch.device("meta")  # tensors without numbers, which torch refuses to mix with the CPU's as it does a GPU's


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_used_where_there_is_one(monkeypatch, there, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert best_device() == torch.device(device)
    setting = bench.resolve(bench.BenchSetting())
    assert (setting.device, setting.batch_size) == (device, 16 if there else 1)


@pytest.mark.parametrize("there", [True, False])
def test_batches_for_a_gpu_lie_in_pinned_memory(tiny, monkeypatch, there):
    _, test = open_splits(tiny)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert eval_loader(test, tiny).pin_memory is there


@pytest.fixture
def gpu(monkeypatch):
    """Tensors without numbers that claim to be on a GPU. With these autocast works, too."""
    if torch.__version__ < (2, 10) and not torch.cuda.is_available():
        pytest.skip("before version 2.10 torch asks a driver about them, and ends the process where there is none")
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, std: tensor)  # it looks at numbers
    with FakeTensorMode():
        yield torch.device("cuda")


def test_a_tensor_that_stayed_behind_is_noticed(gpu):
    with gpu:
        model = VisionTransformer(CONFIG)
    with pytest.raises(RuntimeError, match="device"):
        model(torch.randn(2, 3, 48, 48))


@pytest.mark.parametrize("head", ["cls", "flatten"])
@pytest.mark.parametrize("fusion", [*FUSIONS, RANDOM])
def test_a_vit_s_tensors_stay_on_its_device(gpu, fusion, head):
    with gpu:
        model = VisionTransformer(CONFIG.replace(fusion=fusion, head=head))
        images, labels = torch.randn(2, 3, 48, 48), torch.tensor([0, 1])
    tokens = model.forward_features(images)
    loss = torch.nn.functional.cross_entropy(model.forward_head(tokens), labels) + contrastive_loss(tokens[:, 0], labels)
    assert {tensor.device.type for tensor in (loss, *model.inspect(images)[:3])} == {"cuda"}


def test_a_cnn_s_gradients_stay_on_its_device(tiny):
    model, (images, labels) = resnet18(5).to(META), (torch.randn(2, 3, 48, 48), torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match="device"):
        model(images)
    images, labels = images.to(META), labels.to(META)
    maps = [input_gradient(model, images), *fgsm(model, images, labels, (0, 1), normalisation(tiny))]
    assert {tensor.device for tensor in maps} == {META}


def test_a_cnn_s_weights_keep_their_order_in_memory():
    weight = resnet18(5).to(META).layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
