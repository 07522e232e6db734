"""Hugging Face's format: read and written in any layout, bit by bit; what cannot be read is refused by name."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, zeros
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from anemone.checkpoint.huggingface import read_huggingface, write_huggingface
from anemone.config import decode
from anemone.errors import ArchiveError
from anemone.models.text.llama import LlamaConfig
from anemone.parallel.apply import parallelize
from anemone.parallel.initial import initialize
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.testing import run_ranks

GOLDEN = Path(__file__).parents[1] / "golden/llama"
FAMILIES = ["grouped", "tied", "scaled", "window", "experts"]


def theirs(folder):
    """All tensors in the files of a folder, read by another library."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def build(stored):
    tree = {key: value for key, value in stored.model.items() if key != "kind"}
    return decode(LlamaConfig, tree).build(stored.vocab_size)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_is_read_and_written_is_the_same(family, tmp_path):
    stored = read_huggingface(GOLDEN / family)
    model = build(stored)
    stored.read_into(dict(model.named_parameters()))
    write_huggingface(tmp_path / "model", dict(model.named_parameters()), model.shape.tree(), model.vocab_size)
    assert same(theirs(tmp_path / "model"), theirs(GOLDEN / family))
    again = read_huggingface(tmp_path / "model")
    assert (again.model, again.vocab_size) == (stored.model, stored.vocab_size)


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_are_written_as_transformers_writes_them(family, tmp_path):
    stored = read_huggingface(GOLDEN / family)
    write_huggingface(tmp_path / "model", dict(stored), stored.model, stored.vocab_size)
    ours, want = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "model", GOLDEN / family))
    rope = want["rope_parameters"]
    assert ours["rope_theta"] == rope["rope_theta"]
    scaled = {key: value for key, value in rope.items() if key != "rope_theta"} if family == "scaled" else None
    assert ours["rope_scaling"] == scaled
    told = {"architectures", "model_type", "hidden_size", "num_hidden_layers", "rms_norm_eps", "tie_word_embeddings"}
    told |= {"num_key_value_heads", "num_local_experts", "sliding_window", "vocab_size", "hidden_act"} & set(want)
    assert {key: ours[key] for key in told} == {key: want[key] for key in told}


def test_every_parameter_has_a_name_there_and_every_name_there_a_parameter():
    for family in FAMILIES:
        stored = read_huggingface(GOLDEN / family)
        own = {name: tuple(p.shape) for name, p in build(stored).named_parameters(remove_duplicate=False)}
        assert own == {name: source.shape for name, source in stored.sources.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_types_are_converted_both_ways(dtype, tmp_path):
    stored = read_huggingface(GOLDEN / "experts")
    write_huggingface(tmp_path / "model", dict(stored), stored.model, stored.vocab_size, dtype=dtype)
    for name, tensor in theirs(tmp_path / "model").items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, theirs(GOLDEN / "experts")[name].to(dtype))
    assert json.loads((tmp_path / "model/config.json").read_text())["torch_dtype"] == str(dtype)[6:]
    model = build(stored)
    read_huggingface(tmp_path / "model").read_into(dict(model.named_parameters()))
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, stored[name].to(dtype).float())


def test_files_are_no_larger_than_asked_and_stand_in_the_index(tmp_path):
    stored = read_huggingface(GOLDEN / "experts")
    folder = tmp_path / "model"
    write_huggingface(folder, dict(stored), stored.model, stored.vocab_size, max_shard_bytes=30_000)
    files = sorted(folder.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{n + 1:05d}-of-{len(files):05d}.safetensors" for n in range(len(files))
    ]
    assert len(files) == 9
    for file in files:
        assert sum(tensor.numel() * 4 for tensor in load_file(file).values()) <= 30_000
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.numel() * 4 for tensor in theirs(folder).values())
    assert index["weight_map"] == {name: file.name for file in files for name in load_file(file)}
    assert same(theirs(folder), theirs(GOLDEN / "experts"))


# --- layouts ----------------------------------------------------------------------------------------------------------


def placed(stored, mesh, dims):
    """Parameters without values of a stage, each cut along the first of ``dims`` that has room for it, and so on."""
    tensors = {}
    for name, source in stored.sources.items():
        placements = [Shard(dim) if dim is not None and dim < len(source.shape) else Replicate() for dim in dims]
        tensors[name] = zeros(source.shape, device_mesh=mesh, placements=placements)
    return tensors


def on_stages(stored, tensors, stage):
    """What one of two stages of a pipeline holds."""
    last = stored.model["num_layers"] - 1
    late = ("norm.", "head.", f"layers.{last}.")
    return {name: tensor for name, tensor in tensors.items() if name.startswith(late) == bool(stage)}


def read_and_write(rank, family, sizes, dims, out):
    """Reads over a mesh whose first axis are stages; compares; writes; all ranks at once."""
    stored = read_huggingface(GOLDEN / family)
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("pp", "a", "b"))
    held = placed(stored, mesh["a", "b"], dims)
    held = on_stages(stored, held, mesh.get_local_rank("pp")) if sizes[0] > 1 else held
    stored.read_into(held)
    for name, tensor in held.items():
        assert torch.equal(tensor.full_tensor(), stored[name]), name
    write_huggingface(out, held, stored.model, stored.vocab_size, max_shard_bytes=40_000, group=dist.group.WORLD)


@pytest.mark.parametrize(
    ("family", "sizes", "dims"),
    [
        ("grouped", (1, 2, 2), (0, 1)),
        ("tied", (2, 1, 2), (None, 0)),
        ("experts", (1, 2, 1), (0, None)),
        ("experts", (1, 2, 1), (1, None)),
        ("scaled", (1, 3, 1), (0, None)),
    ],
    ids=["cut along both axes", "stages with tied weights", "experts apart", "within experts", "parts that are uneven"],
)
def test_any_layout_reads_and_writes_the_same(family, sizes, dims, tmp_path):
    run_ranks(math.prod(sizes), read_and_write, family, sizes, dims, tmp_path / "model")
    assert same(theirs(tmp_path / "model"), theirs(GOLDEN / family))
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    assert not (tmp_path / "model.tmp").exists()


def sharded_twice(rank, out):
    """A network under tensor parallelism and sharded weights, both along the same axis."""
    stored = read_huggingface(GOLDEN / "grouped")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("fsdp", "tp"))
    model = build(stored)
    for layer in model.layers.values():
        styles = {f"attention.{name}": ColwiseParallel() for name in ("query", "key", "value")}
        parallelize_module(layer, mesh["tp"], {**styles, "attention.output": RowwiseParallel()})
        fully_shard(layer, mesh=mesh["fsdp"])
    fully_shard(model, mesh=mesh["fsdp"])
    parameters = dict(model.named_parameters())
    stored.read_into(parameters)
    assert any("Strided" in str(parameter.placements) for parameter in parameters.values())
    assert all(isinstance(parameter, DTensor) for parameter in parameters.values())
    write_huggingface(out, parameters, model.shape.tree(), model.vocab_size, group=dist.group.WORLD)


def test_weights_cut_twice_along_one_axis_read_and_write_the_same(tmp_path):
    run_ranks(4, sharded_twice, tmp_path / "model")
    assert same(theirs(tmp_path / "model"), theirs(GOLDEN / "grouped"))


def parallel(rank, settings, out):
    """A network that is laid out as in training, from the meta device on."""
    stored = read_huggingface(GOLDEN / "experts")
    with torch.device("meta"):
        network = build(stored)
    mesh = Mesh(ParallelConfig(**settings).resolve(4), "cpu")
    made = parallelize(network, mesh)
    initialize(made.network, network.draw, seed=0)
    held = dict(made.network.named_parameters())
    stored.read_into(held)
    write_huggingface(out, held, network.shape.tree(), network.vocab_size, group=dist.group.WORLD)
    return sorted(held)


@pytest.mark.parametrize("settings", [{"pp": 2, "tp": 2}, {"dp_shard": 4, "ep": 2}], ids=str)
def test_a_network_as_laid_out_for_training_reads_and_writes_the_same(settings, tmp_path):
    names = run_ranks(4, parallel, settings, tmp_path / "model")
    assert same(theirs(tmp_path / "model"), theirs(GOLDEN / "experts"))
    assert (names[0] == names[3]) == ("pp" not in settings)


def test_of_a_file_only_the_part_that_is_held_is_read():
    """A rank of two that holds half the rows copies half the numbers."""
    stored = read_huggingface(GOLDEN / "experts")
    total = sum(math.prod(source.shape) for source in stored.sources.values())
    halves = run_ranks(2, half_read, str(GOLDEN / "experts"))
    assert sum(halves) == total
    assert max(halves) < 0.51 * total


def half_read(rank, folder):
    real, copied = torch.Tensor.copy_, []

    def copy_(self, source, *args):
        copied.append(source.numel())
        return real(self, source, *args)

    torch.Tensor.copy_ = copy_
    stored = read_huggingface(folder)
    stored.read_into(placed(stored, init_device_mesh("cpu", (2,)), (0,)))
    torch.Tensor.copy_ = real
    return sum(copied)


def one_of_them_cannot_write(rank, out):
    stored = read_huggingface(GOLDEN / "experts")
    held = placed(stored, init_device_mesh("cpu", (2,)), (0,))
    if rank:
        del held["norm.weight"], held["layers.1.ffn.experts.up"]
    else:
        held.pop("layers.1.ffn.experts.up")
    with pytest.raises(ArchiveError, match=r"`layers.1.ffn.experts.up` is missing: no rank holds it"):
        write_huggingface(out, held, stored.model, stored.vocab_size, group=dist.group.WORLD)


def test_a_tensor_that_no_rank_holds_stops_all(tmp_path):
    run_ranks(2, one_of_them_cannot_write, tmp_path / "model")
    assert not any(tmp_path.iterdir())


def full_disk(rank, out):
    """The second rank's disk is full: no rank waits for it, all are told, and what was there stays."""
    stored = read_huggingface(GOLDEN / "experts")
    held = placed(stored, init_device_mesh("cpu", (2,)), (0,))
    stored.read_into(held)
    if rank:
        import anemone.checkpoint.huggingface as module

        def refuse(*args):
            raise OSError(28, "No space left on device", "somewhere")

        module._header = refuse
    with pytest.raises(ArchiveError, match=r"Rank 1 of 2: No space left on device: `somewhere`"):
        write_huggingface(out, held, stored.model, stored.vocab_size, max_shard_bytes=40_000, group=dist.group.WORLD)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    shutil.copytree(GOLDEN / "grouped", tmp_path / "model")
    run_ranks(2, full_disk, tmp_path / "model")
    assert same(theirs(tmp_path / "model"), theirs(GOLDEN / "grouped"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A copy of a model, to be spoilt."""
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / "grouped" / name, tmp_path / name)
    return tmp_path


def change(folder, **settings):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "gpt2"}, r"`model_type` must be one of \['llama', 'mistral', 'mixtral'\], but is 'gpt2'"),
        ({"model_type": "lama"}, r"but is 'lama' instead. Did you mean `llama`"),
        ({"attention_bias": True}, r"`config.json.attention_bias` must be False to be read, but is True instead"),
        ({"hidden_act": "gelu"}, r"`config.json.hidden_act` must be 'silu' to be read, but is 'gelu' instead"),
        ({"quantization_config": {}}, r"`config.json.quantization_config` must be None to be read"),
        ({"alibi": True}, r"`config.json.alibi` is not a setting that can be read"),
        ({"hidden_size": "32"}, r"`config.json.hidden_size` cannot be read: '32': must be a whole number"),
        ({"num_hidden_layers": 10**6}, r"at most 100000 layers times experts, but asks for 1000000"),
        ({"rope_parameters": {"rope_type": "yarn"}}, r"rope_parameters` cannot be read: .* must be \"default\" or"),
        (
            {"rope_scaling": [], "rope_parameters": None},
            r"rope_scaling` cannot be read: .* must be a group of settings",
        ),
    ],
    ids=str,
)
def test_settings_that_cannot_be_had_are_refused_by_name(folder, settings, message):
    change(folder, **settings)
    with pytest.raises(ArchiveError, match=message):
        read_huggingface(folder)


def test_old_and_new_ways_to_scale_rotation_are_read_alike(folder):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    change(folder, rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    new = read_huggingface(folder).model
    change(folder, rope_parameters=None, rope_theta=5e5, rope_scaling={"rope_type": "llama3", **scaling})
    assert read_huggingface(folder).model == new
    assert new["rope_theta"] == 5e5
    assert new["rope_scaling"]["original_len"] == 16


def test_a_setting_that_is_needed_and_missing_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArchiveError, match=r"`config.json` must have `hidden_size`, which it lacks"):
        read_huggingface(folder)


def spoil(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_wrong_shape_is_named(folder):
    name = "model.layers.1.self_attn.k_proj.weight"
    spoil(folder, lambda tensors: tensors.update({name: torch.zeros(17, 32)}))
    stored = read_huggingface(folder)
    message = rf"`{name}` must be \[16, 32\] to become `layers.1.attention.key.weight`, but is \[17, 32\] instead"
    with pytest.raises(ArchiveError, match=message):
        stored.read_into({"layers.1.attention.key.weight": torch.zeros(16, 32)})


def test_a_network_of_another_shape_is_refused_by_name(folder):
    stored = read_huggingface(folder)
    with pytest.raises(ArchiveError, match=r"`norm.weight` must be \[31\], but is \[32\] by `.*config.json`"):
        stored.read_into({"norm.weight": torch.zeros(31)})
    with pytest.raises(ArchiveError, match=r"`norm.bias` is no tensor of the model"):
        stored.read_into({"norm.bias": torch.zeros(32)})


def test_tensors_that_are_missing_or_unknown_are_named(folder):
    spoil(folder, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ArchiveError, match=r"lacks `model.norm.weight`"):
        read_huggingface(folder)
    bias = {"model.norm.weight": torch.ones(32), "model.layers.0.self_attn.q_proj.bias": torch.ones(32)}
    spoil(folder, lambda tensors: tensors.update(bias))
    with pytest.raises(ArchiveError, match=r"does not ask for: `model.layers.0.self_attn.q_proj.bias`"):
        read_huggingface(folder)


def test_what_follows_from_the_settings_may_stand_there(folder):
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    spoil(folder, lambda tensors: tensors.update(old))
    assert len(read_huggingface(folder)) == 21


def test_whole_numbers_are_no_weights(folder):
    spoil(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}))
    with pytest.raises(ArchiveError, match=r"`model.norm.weight` must be of .*, but is torch.int8"):
        read_huggingface(folder).read_into({"norm.weight": torch.zeros(32)})


@pytest.mark.parametrize("name", ["../model.safetensors", "a/b.safetensors", 3])
def test_an_index_may_not_lead_elsewhere(folder, name):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(ArchiveError, match=r"must have a `weight_map` to names of files beside it"):
        read_huggingface(folder)


def test_files_that_are_missing_or_cut_short_are_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArchiveError, match=r"model.safetensors` is cut short"):
        read_huggingface(folder)
    file.unlink()
    with pytest.raises(ArchiveError, match=r"must hold `model.safetensors` or `model.safetensors.index.json`"):
        read_huggingface(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ArchiveError, match=r"config.json` cannot be read"):
        read_huggingface(folder)


def test_what_is_no_model_is_not_written_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    stored = read_huggingface(GOLDEN / "grouped")
    with pytest.raises(ArchiveError, match="must be a new folder or a model, but is something else"):
        write_huggingface(tmp_path, dict(stored), stored.model, stored.vocab_size)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_further_files_are_written_beside_it(tmp_path):
    stored = read_huggingface(GOLDEN / "grouped")
    files = {"tokenizer.json": b"{}"}
    write_huggingface(tmp_path / "model", dict(stored), stored.model, stored.vocab_size, files=files)
    assert (tmp_path / "model/tokenizer.json").read_bytes() == b"{}"
