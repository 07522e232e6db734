"""Tensors go into modules exactly, or in parts with a report; what does not fit is named."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from anemone.checkpoint.archive import Archive, write_archive
from anemone.checkpoint.fit import at_most, check_fit, load_part, load_tensors_into
from anemone.errors import ArchiveError


def encoder(width: int = 4, *, linear: bool = False) -> nn.Sequential:
    pointwise = nn.Linear(width, width) if linear else nn.Conv1d(width, width, 1)
    return nn.Sequential(nn.Conv1d(3, width, 5), nn.BatchNorm1d(width), pointwise)


class Model(nn.Module):
    """Encoder and head inside a network, as a task has them."""

    def __init__(self, width: int = 4, *, classes: int = 2, linear: bool = False) -> None:
        super().__init__()
        self.network = nn.ModuleDict({"encoder": encoder(width, linear=linear), "head": nn.Linear(width, classes)})


def archive(model: nn.Module) -> Archive:
    return Archive({"a": 1}, {name: tensor.clone() for name, tensor in model.state_dict().items()}, {})


def equal(a: nn.Module, b: nn.Module) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


# --- all of them ------------------------------------------------------------------------------------------------------


def test_all_tensors_are_copied():
    source, target = Model(), Model()
    source.network["encoder"][1].running_mean.fill_(3)
    load_tensors_into(target, source.state_dict())
    assert equal(source, target)
    assert target.network["head"].weight.data_ptr() != source.network["head"].weight.data_ptr()


def test_half_precision_becomes_the_modules_own():
    target = nn.Linear(2, 2)
    load_tensors_into(target, {"weight": torch.ones(2, 2).half(), "bias": torch.zeros(2, dtype=torch.float64)})
    assert target.weight.dtype == target.bias.dtype == torch.float32 and target.weight.sum() == 4


def test_a_module_on_meta_takes_the_tensors_themselves():
    with torch.device("meta"):
        target = Model()
    tensors = archive(Model()).tensors
    load_tensors_into(target, tensors)
    assert target.network["head"].weight.data_ptr() == tensors["network.head.weight"].data_ptr()
    assert target.network["head"].weight.requires_grad


def test_every_misfit_is_named_and_nothing_is_changed():
    target = Model()
    before = archive(target).tensors
    tensors = archive(Model(5)).tensors
    tensors["network.encoder.1.num_batches_tracked"] = torch.tensor(1.5)
    tensors["network.head.wieght"] = tensors.pop("network.head.weight")
    with pytest.raises(ArchiveError) as caught:
        load_tensors_into(target, tensors)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the tensors do not fit Model:"
    assert lines[1:4] == [
        "  `network.encoder.0.weight` must be [4, 3, 5], but is [5, 3, 5] instead.",
        "  `network.encoder.0.bias` must be [4], but is [5] instead.",
        "  `network.encoder.1.weight` must be [4], but is [5] instead.",
    ]
    assert "  `network.encoder.1.num_batches_tracked` must be torch.int64, but is torch.float32 instead." in lines
    missing = "  `network.head.weight` is missing in the archive. Did you mean `network.head.wieght`?"
    assert missing in lines
    assert "  `network.head.wieght` is not in the model. Did you mean `network.head.weight`?" in lines
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_module_of_any_size_is_held_against_tensors_without_memory():
    with torch.device("meta"):
        target = nn.Linear(1 << 20, 1 << 20)  # 4 TiB
    with pytest.raises(ArchiveError, match=r"`weight` must be \[1048576, 1048576\], but is \[2, 2\] instead"):
        check_fit(target, nn.Linear(2, 2).state_dict())
    check_fit(target, target.state_dict())


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_other_kinds_of_numbers_are_not_converted(dtype):
    tensors = {"weight": torch.ones(2, 2, dtype=dtype), "bias": torch.zeros(2)}
    with pytest.raises(ArchiveError, match=rf"`weight` must be torch.float32, but is {dtype} instead"):
        load_tensors_into(nn.Linear(2, 2), tensors)


def test_a_long_list_of_misfits_is_cut():
    tensors = {f"t{i}": torch.ones(1) for i in range(50)}
    with pytest.raises(ArchiveError, match=r"\.\.\. and 32 more\.$"):
        load_tensors_into(nn.Linear(2, 2), tensors)


def test_without_strict_only_shapes_must_fit():
    target = nn.Linear(2, 2)
    load_tensors_into(target, {"weight": torch.ones(2, 2), "other": torch.ones(3)}, strict=False)
    assert target.weight.sum() == 4
    with pytest.raises(ArchiveError, match=r"`bias` must be \[2\], but is \[3\] instead"):
        load_tensors_into(target, {"bias": torch.ones(3)}, strict=False)


# --- one part ---------------------------------------------------------------------------------------------------------


def test_a_part_is_loaded_and_the_rest_stays(capsys):
    source, target = Model(), Model(classes=9)
    head = target.network["head"].weight.clone()
    report = load_part(target, "encoder", archive(source))
    assert equal(source.network["encoder"], target.network["encoder"])
    assert torch.equal(target.network["head"].weight, head)
    assert len(report.matched) == 8 and report.share == 1 and not report.reshaped and not report.skipped
    assert capsys.readouterr().out == "encoder:\nmatched  8 tensors, with those reshaped 100.0% of the weights\n"


@pytest.mark.parametrize("linear", [True, False])
def test_a_pointwise_convolution_and_a_linear_layer_stand_for_each_other(linear, capsys):
    source, target = Model(linear=linear), Model(linear=not linear)
    report = load_part(target, "network.encoder", archive(source))
    wide, flat = "[4, 4, 1]", "[4, 4]"
    how = f"{flat} -> {wide}" if linear else f"{wide} -> {flat}"
    assert report.reshaped == {"2.weight": f"{how}, axes of size one"}
    weights = [model.network["encoder"][2].weight for model in (source, target)]
    assert torch.equal(weights[0].flatten(), weights[1].flatten())
    assert f"reshaped  2.weight  {how}, axes of size one\n" in capsys.readouterr().out


def test_what_does_not_fit_is_skipped_with_the_reason(capsys):
    source, target = Model(), Model()
    tensors = archive(source).tensors
    tensors["network.encoder.0.weight"] = torch.ones(4, 3, 7)
    tensors["network.encoder.1.num_batches_tracked"] = torch.tensor(1.0)
    del tensors["network.encoder.0.bias"]
    tensors["network.encoder.9.scale"] = torch.ones(1)
    kept = target.network["encoder"][0].weight.clone()
    report = load_part(target, "encoder", Archive({}, tensors, {}))
    assert report.skipped == {
        "0.bias": "not in the source",
        "0.weight": "must be [4, 3, 5], but is [4, 3, 7] instead",
        "1.num_batches_tracked": "must be torch.int64, but is torch.float32 instead",
        "9.scale": "not in the model",
    }
    assert torch.equal(target.network["encoder"][0].weight, kept)
    out = capsys.readouterr().out
    assert "skipped  0.weight               must be [4, 3, 5], but is [4, 3, 7] instead\n" in out
    assert out.startswith("encoder:\nmatched  6 tensors, with those reshaped ")


def test_a_part_may_have_another_name_and_place_in_the_source(tmp_path):
    source, target = nn.ModuleDict({"acoustic": encoder()}), Model()
    write_archive(tmp_path / "m.anemone", archive(source))
    load_part(target, "encoder", tmp_path / "m.anemone", source_part="acoustic")
    assert equal(source["acoustic"], target.network["encoder"])


def test_a_module_on_its_own_can_be_the_model():
    source, target = Model(), nn.ModuleDict({"encoder": encoder()})
    load_part(target, "encoder", archive(source))
    assert equal(source.network["encoder"], target["encoder"])


def test_a_part_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(ArchiveError, match=r"`encodr` is no part of the model. Did you mean `network.encoder`\?"):
        load_part(Model(), "encodr", archive(Model()))
    source = archive(nn.ModuleDict({"body": encoder()}))
    with pytest.raises(
        ArchiveError, match=r"`encoder` is no part of the source.* It has: body, body.0, body.1, body.2\."
    ):
        load_part(Model(), "encoder", source)


def test_a_part_that_could_be_two_must_be_told_apart():
    twins = nn.ModuleDict(
        {"left": nn.ModuleDict({"encoder": encoder()}), "right": nn.ModuleDict({"encoder": encoder()})}
    )
    with pytest.raises(ArchiveError, match=r"`encoder` may be any of left.encoder, right.encoder in the model"):
        load_part(twins, "encoder", archive(Model()))


def test_a_part_of_which_nothing_fits_is_an_error():
    with pytest.raises(ArchiveError, match=r"nothing of `head` fits:\nmatched +0 tensors, .*\nskipped +weight"):
        load_part(Model(classes=3), "head", archive(Model(5)))


def test_a_limit_on_weights_leaves_other_threads_alone():
    with at_most(3), ThreadPoolExecutor(1) as pool:
        assert pool.submit(nn.Linear, 4, 4).result().weight.shape == (4, 4)
        with pytest.raises(ArchiveError, match="more than the 3 weights"):
            nn.Linear(4, 4)


def test_counters_alone_are_nothing():
    with pytest.raises(ArchiveError, match=r"nothing of `encoder` fits:\nmatched +0 tensors, with those reshaped 0.0%"):
        load_part(Model(4), "encoder", archive(Model(5)))
