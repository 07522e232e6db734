import torch
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from anemone.models.text.llama import LlamaConfig
from anemone.parallel.apply import parallelize
from anemone.parallel.initial import initialize, part_of, seed_of
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.processes import run_ranks


def small(**changes):
    shape = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_head": 8, "d_ff": 48}
    with torch.device("meta"):
        return LlamaConfig(size="custom", **{**shape, **changes}).build(30)


def filled(seed, **changes):
    network = small(**changes)
    initialize(network, network.draw, seed)
    return network


def test_weights_depend_on_seed_and_name_alone():
    one, two, other = (dict(filled(seed).named_parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert not torch.equal(one["layers.0.ffn.up.weight"], one["layers.1.ffn.up.weight"])
    assert torch.equal(one["norm.weight"], torch.ones(32))
    part = small()
    part.embedding, part.layers = None, torch.nn.ModuleDict({"1": part.layers["1"]})
    initialize(part, part.draw, 1)
    assert all(torch.equal(value, one[name]) for name, value in part.named_parameters())


def test_tied_weights_stay_tied_when_they_get_memory():
    network = filled(1, tie_embeddings=True)
    assert network.head.weight is network.embedding.weight and not network.head.weight.is_meta


def test_seeds_fit_into_a_generator():
    assert len({seed_of(seed, name) for seed in range(30) for name in ("a", "b", "1 a")}) == 90
    assert all(0 <= seed_of(seed, "a") < 2**63 for seed in range(100))


def parts(rank):
    """Whether parts are those that torch cuts, uneven ones and strided ones too, and add up to the whole."""
    mesh, whole = Mesh(ParallelConfig(dp_shard=2, tp=2)), torch.arange(7 * 5.0).view(7, 5)
    both = mesh.over("fsdp", "tp")
    for placements in ((Shard(0), Shard(1)), (Shard(1), Shard(1)), (Shard(0), Shard(0))):
        cut = distribute_tensor(whole, both, placements, src_data_rank=None)
        assert torch.equal(part_of(whole, both, placements), cut.to_local()), placements
    network = small()
    parallelize(network, mesh)
    initialize(network, network.draw, 5)
    assert any("_Strided" in str(p.placements) for p in network.parameters() if isinstance(p, DTensor))
    return {name: parameter.detach().full_tensor() for name, parameter in network.named_parameters()}


def test_every_layout_starts_with_the_weights_of_one_process():
    truth = dict(filled(5).named_parameters())
    for found in run_ranks(4, parts):
        assert found.keys() == truth.keys()
        assert all(torch.equal(found[name], value) for name, value in truth.items())
