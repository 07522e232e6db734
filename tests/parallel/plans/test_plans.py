import pytest
import torch
from torch import nn

from anemone.config import load_class
from anemone.models.speech.citrinet import CitrinetConfig
from anemone.models.speech.conformer import ConformerConfig
from anemone.models.speech.conformer_config import AttentionConfig, ReductionConfig, SubsamplingConfig
from anemone.models.speech.jasper import JasperConfig
from anemone.models.speech.matchboxnet import MatchboxNetConfig
from anemone.models.speech.quartznet import QuartzNetConfig
from anemone.models.speech.wav2vec2 import Wav2Vec2Config
from anemone.models.speech.whisper import WhisperConfig
from anemone.models.text.llama import LlamaConfig
from anemone.parallel.plans import PLANS, find_plans, matching
from anemone.parallel.tensor import STYLES

NETWORKS = {
    "Llama": lambda: LlamaConfig(size="tiny").build(64),
    "mixture": lambda: LlamaConfig(size="mixtral_tiny").build(64),
    "Conformer": lambda: ConformerConfig(size="small", d_out=64).build(num_features=8),
    "local": lambda: ConformerConfig(
        size="small",
        subsampling=SubsamplingConfig(kind="none", factor=1),
        attention=AttentionConfig(positions="local", contexts=((8, 8),), num_global=1, global_separate=True),
        reduction=ReductionConfig(kind="striding"),
    ).build(num_features=8),
    "QuartzNet": lambda: QuartzNetConfig(size="tiny").build(num_features=8),
    "MatchboxNet": lambda: MatchboxNetConfig(size="3x1x64").build(num_features=8),
    "Citrinet": lambda: CitrinetConfig(size="tiny").build(num_features=8),
    "Jasper": lambda: JasperConfig(size="tiny").build(num_features=8),
    "Wav2Vec2": lambda: Wav2Vec2Config(size="tiny").build(num_features=1),
    "Whisper": lambda: WhisperConfig(size="mini").build(num_features=8),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    with torch.device("meta"):
        return NETWORKS[request.param]()


def test_every_pattern_matches_something():
    built = [network() for network in NETWORKS.values()]
    for name in PLANS:
        plan, alike = load_class(PLANS[name]), [net for net in built if type(net).__name__ == name]
        patterns = [*plan.blocks, *plan.tensor, *plan.first, *plan.last, *plan.cores, *plan.experts]
        patterns += [plan.layers] if plan.layers else []
        for pattern in patterns:
            assert any(list(matching(net, pattern)) for net in alike), (name, pattern)
        assert set(plan.tensor.values()) <= set(STYLES)


def test_every_matrix_of_a_linear_layer_has_a_style(network):
    (planned,) = find_plans(network)
    named = {name for pattern in planned.plan.tensor for name, _ in matching(network, pattern)}
    linear = {name for name, module in network.named_modules() if type(module) is nn.Linear}
    assert linear and linear <= named


def test_a_plan_is_found_inside_a_task_and_after_a_change_of_class(network):
    plan = find_plans(network)[0].plan
    network.__class__ = type("FSDP" + type(network).__name__, (nn.Module, type(network))[1:], {})
    ((name, module, found),) = find_plans(nn.Sequential(nn.ReLU(), network))
    assert (name, module, found) == ("1", network, plan)


def test_stages_need_layers_that_can_be_told_apart(network):
    plan = find_plans(network)[0].plan
    if plan.layers:
        assert isinstance(network.get_submodule(plan.layers), nn.ModuleDict)
