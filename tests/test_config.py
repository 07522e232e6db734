"""Trees compose, decode strictly, and every mistake names the setting, the rule and the nearest right name."""
# ruff: noqa: E501  (the table of mistakes quotes whole messages)

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from anemone import config
from anemone.config import compose, decode, encode, last_part, must, nearest, of_kind, refuse_code, stem
from anemone.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    num_layers: int = 2
    kernel_sizes: tuple[int, ...] = (3, 5)
    dropout: float | None = None
    norm: Literal["batch", "layer"] = "batch"

    def __post_init__(self) -> None:
        must(self.num_layers > 0, "num_layers", "above 0", value=self.num_layers)


@dataclass(frozen=True, kw_only=True)
class SmallConfig:
    encoder: EncoderConfig = EncoderConfig()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OtherConfig:
    width: int
    span: tuple[float, float] = (0.0, 1.0)
    weights: dict[str, float] | None = None


MODELS = {"small": f"{__name__}:SmallConfig", "other": f"{__name__}:OtherConfig"}


@dataclass(frozen=True, kw_only=True)
class RootConfig:
    model: SmallConfig | OtherConfig = of_kind(MODELS)
    precision: Literal["32", "bf16"] = "32"
    seed: int = 0
    shuffle: bool = True
    schedule: SmallConfig | None = of_kind(MODELS, optional=True)


@pytest.fixture(autouse=True)
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small conf/ folder; this module's classes stand in for the package's."""
    files = {
        "model/small.yaml": "kind: small\nencoder: {num_layers: 3}\n",
        "model/other.yaml": "kind: other\nwidth: 7\n",
        "experiment/first.yaml": "# @package _global_\ndefaults:\n  - /model: small\n  - _self_\nseed: 5\n",
    }
    for name, text in files.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(text)
    monkeypatch.setattr(config, "CONF", tmp_path / "conf")
    monkeypatch.setattr(config, "load_class", lambda name: globals()[name.partition(":")[2]])
    return tmp_path / "conf"


def run(*overrides: str, experiment: str = "first") -> RootConfig:
    return decode(RootConfig, compose(experiment, overrides))


def test_composes_and_decodes():
    assert run() == RootConfig(model=SmallConfig(encoder=EncoderConfig(num_layers=3)), seed=5)


def test_a_group_is_picked_and_its_values_set():
    assert run("model=other", "model.width=9").model == OtherConfig(width=9)


def test_a_setting_the_yaml_does_not_list_can_be_set():
    assert run("model.encoder.dropout=0.5").model.encoder.dropout == 0.5


def test_a_kind_alone_stands_for_its_defaults():
    assert run("schedule=small").schedule == SmallConfig()


def test_a_pick_is_the_same_with_a_plus():
    assert run("+model=other") == run("model=other")


def test_plain_values_decode_to_their_types():
    tree = {"kind": "other", "width": 3.0, "span": [1, 2], "weights": {"a": 1}}
    assert decode(RootConfig, {"model": tree, "precision": 32}) == RootConfig(
        model=OtherConfig(width=3, span=(1.0, 2.0), weights={"a": 1.0}), precision="32"
    )
    assert decode(SmallConfig, {"labels": "yes"}).labels == ("yes",)


def test_encode_is_the_inverse_of_decode():
    for made in (run(), run("model=other", "model.weights={a: 2}"), run("schedule={kind: small}")):
        assert decode(RootConfig, encode(made)) == made


def test_a_class_outside_the_table_is_named_when_it_is_to_be_written():
    message = (
        f"`model` must be of a class that stands in its table (small, other), or .* but is '{__name__}:EncoderConfig'"
    )
    with pytest.raises(ConfigError, match=re.escape(message).replace(re.escape(".*"), ".*")):
        encode(RootConfig(model=EncoderConfig()))


def test_a_users_file_uses_our_groups_and_its_own(tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "wide.yaml").write_text("kind: other\nwidth: 99\n")
    mine = tmp_path / "mine" / "mine.yaml"
    mine.write_text("defaults:\n  - /model: small\n  - _self_\nseed: 8\n")
    assert run(experiment=str(mine)).seed == 8
    assert run("model=other", experiment=str(mine)).model.width == 7
    assert run("model=wide", experiment=str(mine)).model.width == 99


def test_a_users_file_varies_an_experiment_of_ours(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("defaults:\n  - /experiment/first\n  - override /model: other\n  - _self_\nmodel: {width: 4}\n")
    assert run(experiment=str(mine)) == RootConfig(model=OtherConfig(width=4), seed=5)


def test_a_group_is_picked_also_where_the_file_picks_none(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {kind: small}\nseed: 1\n")
    assert run("model=other", experiment=str(mine)) == RootConfig(model=OtherConfig(width=7), seed=1)
    with pytest.raises(ConfigError, match=r"asks for `model/othr`, which does not exist. Did you mean `model/other`\?"):
        run("model=othr", experiment=str(mine))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.encoder.nlayers=3"], "`model.encoder.nlayers` is not a setting of EncoderConfig. Did you mean `model.encoder.num_layers`?"),
        (["+model.encoder.nlayers=3"], "`model.encoder.nlayers` is not a setting of EncoderConfig."),
        (["num_layers=3"], "`num_layers` is not a setting of RootConfig. Did you mean `model.encoder.num_layers`?"),
        (["num_layer=3", "schedule=small"], "Did you mean `model.encoder.num_layers` or `schedule.encoder.num_layers`?"),
        (["model=other", "wdith=3"], "`wdith` is not a setting of RootConfig. Did you mean `model.width`?"),
        (["model.norm=batch"], "`model.norm` is not a setting of SmallConfig. Did you mean `model.encoder.norm`?"),
        (["seed=${oc.env:HOME}"], "`seed` must be written out, as interpolations are refused, but is '${oc.env:HOME}' instead."),
        (["model.labels=[a,'${oc.env:HOME}']"], "`model.labels[1]` must be written out, as interpolations are refused"),
        (["model.encoder.num_layers=${seed}"], "`model.encoder.num_layers` must be written out"),
        (["sede=3"], "`sede` is not a setting of RootConfig. Did you mean `seed`?"),
        (["model.encoder.num_layers=two"], "`model.encoder.num_layers` must be a whole number, but is 'two' instead."),
        (["model.encoder.num_layers=2.5"], "`model.encoder.num_layers` must be a whole number, but is 2.5 instead."),
        (["model.encoder.num_layers=0"], "`model.encoder.num_layers` must be above 0, but is 0 instead."),
        (["model.encoder.kernel_sizes=[3,x]"], "`model.encoder.kernel_sizes[1]` must be a whole number, but is 'x' instead."),
        (["model.encoder.norm=bath"], "must be one of ['batch', 'layer'], but is 'bath' instead. Did you mean `batch`?"),
        (["model.encoder=3"], "`model.encoder` must be a group of settings (EncoderConfig), but is 3 instead."),
        (["shuffle=1"], "`shuffle` must be true or false, but is 1 instead."),
        (["model.encoder.dropout=nan"], "`model.encoder.dropout` must be a finite number below 2**63, but is nan instead."),
        (["model.encoder.dropout=-inf"], "`model.encoder.dropout` must be a finite number below 2**63, but is -inf instead."),
        (["seed=inf"], "`seed` must be a finite number below 2**63, but is inf instead."),
        (["seed=9223372036854775808"], "`seed` must be a finite number below 2**63, but is 9223372036854775808 instead."),
        (["model.kind=[small]"], "`model.kind` must be one of ['other', 'small'], but is ['small'] instead."),
        (["seed=true"], "`seed` must be a whole number, but is True instead."),
        (["model=smal"], "`first` asks for `model/smal`, which does not exist. Did you mean `model/small`? There are: model/other, model/small."),
        (["model.kind=smal"], "`model.kind` must be one of ['other', 'small'], but is 'smal' instead. Did you mean `small`?"),
        (["~model.kind"], "`model.kind` must be set, to one of ['other', 'small']."),
        (["~model"], "`model` must be set: RootConfig has no default for it."),
        (["model=other", "~model.width"], "`model.width` must be set: OtherConfig has no default for it."),
        (["model=other", "model.span=[1]"], "`model.span` must be a list of 2, but is [1] instead."),
        (["seed"], "`seed` must be an override of the form key=value."),
        (["seed=["], "cannot be composed"),
        (["model="], "`model` must be the name of a file in the group `model`, but is '' instead."),
        (["model=[small]"], "`model` must be the name of a file in the group `model`, but is '[small]' instead."),
        (["schedule=smal"], "`schedule.kind` must be one of ['other', 'small'], but is 'smal' instead. Did you mean `small`?"),
        (["experiment=first"], "`experiment` must be named before its settings, but is 'first' instead."),
        (["seed=1,2"], "Write a list as [a,b]; with --multirun, a,b is a run for each."),
        (["model._target_=os.system"], "`model._target_` is refused: a config holds values and never names code to run."),
        (["model={_target_: os.system}"], "`_target_` is refused"),
        (["+hydra.callbacks.x._target_=os.system"], "`hydra.callbacks.x._target_` is refused"),
        (["hydra.run.dir=/tmp"], "`hydra.run.dir` is refused"),
    ],
)  # fmt: skip
def test_a_mistake_names_the_setting_and_the_fix(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        run(*overrides)


@pytest.mark.parametrize(
    "override", ["model.encoder.nlayers=3", "model.encoder.num_layers=two", "model.encoder.num_layers=0", "~model.kind"]
)
def test_an_error_has_the_path_of_its_setting_also_where_the_class_below_refuses_it(override):
    with pytest.raises(ConfigError) as raised:
        run(override)
    path = override.partition("=")[0].lstrip("~")
    assert raised.value.path == copy.copy(raised.value).path == path


@pytest.mark.parametrize(
    ("word", "names", "by", "advice"),
    [
        ("tran.jsonl", ["dev.jsonl", "train.jsonl"], stem, " Did you mean `train.jsonl`?"),
        ("wrods.jsonl", ["train.jsonl"], stem, ""),
        ("data/wrods.jsonl", ["data/train.jsonl", "data/words.jsonl"], stem, " Did you mean `data/words.jsonl`?"),
        ("data/abc", ["data/xyz"], stem, ""),
        ("a.nlayers", ["model.encoder.num_layers"], last_part, " Did you mean `model.encoder.num_layers`?"),
        ("maybe", ["yes", "no"], str, ""),
        ("a.m.", ["p.m.", "noon"], str, " Did you mean `p.m.`?"),
    ],
)
def test_advice_is_given_for_names_that_are_close_in_what_counts(word, names, by, advice):
    assert nearest(word, names, by=by) == advice


def test_an_unknown_experiment_names_the_nearest():
    with pytest.raises(ConfigError, match=r"`frist` is not an experiment. Did you mean `first`\? There are: first"):
        compose("frist")
    with pytest.raises(ConfigError, match=r"`no/such.yaml` must be a YAML file that exists"):
        compose("no/such.yaml")


@pytest.mark.parametrize(
    "text", ["hydra:\n  callbacks: {x: {_target_: os.system}}\n", "model: {_target_: os.system}\n"]
)
def test_a_users_file_that_names_code_is_refused_and_nothing_runs(tmp_path, text):
    path = tmp_path / "evil.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"is refused: a config holds values and never names code to run"):
        compose(str(path))


def test_aliases_that_have_no_end_or_too_many_values_are_refused():
    many = ["x"] * 10
    for _ in range(9):
        many = [many] * 10
    endless: list[object] = []
    endless.append(endless)
    for tree in (many, {"a": {"b": endless}}):
        with pytest.raises(ConfigError, match=r"^here: must hold at most 1,000,000 values"):
            refuse_code(tree, "here: ")


def test_a_file_of_a_group_cannot_read_the_environment(conf, monkeypatch):
    monkeypatch.setenv("ANEMONE_TEST", "secret")
    (conf / "model/small.yaml").write_text("kind: small\nlabels: [a, '${oc.env:ANEMONE_TEST}']\n")
    with pytest.raises(ConfigError, match=r"^`model\.labels\[1\]` must be written out") as caught:
        run()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\n", r"bad.yaml` is not YAML"),
        (b"\xff\xfe", r"bad.yaml` is not YAML"),
        (b"- a\n", r"bad.yaml` with \[\] cannot be composed: primary config 'bad' must be a DictConfig"),
        (b"defaults: 3\n", r"bad.yaml` with \[\] cannot be composed: Invalid defaults list"),
        (b"seed: 1\nseed: 2\n", r"bad.yaml` with \[\] cannot be composed: .*found duplicate key seed"),
        (b"defaults: [/model: smal]\n", r"asks for `model/smal`, which does not exist. Did you mean `model/small`\?"),
        (
            b"seed: ${other}\n",
            r"bad.yaml: seed` must be written out, as interpolations are refused, but is '\${other}'",
        ),
        (b"defaults: ['/model: ${oc.env:HOME}']\n", r"bad.yaml: defaults\[0\]` must be written out"),
        (b"seed: ???\n", r"Missing mandatory value: seed"),
    ],
)
def test_a_users_file_that_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        compose(str(path))
