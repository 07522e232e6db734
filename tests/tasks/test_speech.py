"""What tasks that hear speech share: any kind of recording, any order, any batch; the state of the task is put back."""

import copy

import numpy as np
import pytest
import soundfile
import torch

from anemone.config import load_class
from anemone.data.batch import Batch
from anemone.errors import ConfigError, DataError
from anemone.tasks import TASKS, build, rebuild
from anemone.tasks.speech import _finite
from anemone.testing import speech, tiny
from anemone.types import Chain, checked

VERBS = {"classification": "classify", "recognition": "transcribe"}


def run(task, sources, **settings):
    return getattr(task, VERBS[kind_of(task)])(sources, **settings)


def kind_of(task) -> str:
    return task.config_tree()["task"]["kind"]


@pytest.fixture(scope="module", params=list(VERBS))
def task(request):
    return tiny(request.param)


def batch_for(task, seconds=(1.0, 0.5, 0.8)) -> Batch:
    audio = [torch.from_numpy(speech(s, seed=i)) for i, s in enumerate(seconds)]
    words = ["yes", "no", "stop"][: len(seconds)]
    targets = [torch.tensor(task.encode(word)) for word in words]
    return Batch(
        audio=torch.nn.utils.rnn.pad_sequence(audio, batch_first=True),
        audio_len=torch.tensor([len(a) for a in audio]),
        targets=torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
        target_len=torch.tensor([len(t) for t in targets]),
        rows=torch.arange(len(words)),
    )


def test_every_kind_of_task_that_hears_speech_is_tested():
    hearing = {kind for kind, target in TASKS.items() if load_class(target).data == "speech"}
    assert set(VERBS) == hearing - {"pretraining"}, "pre-training answers nothing; test_pretraining.py is about it"


def test_the_network_is_a_chain_whose_ports_hold(task):
    assert isinstance(task.network, Chain)
    assert list(dict(task.network.named_children())) == ["features", "encoder", "head"]
    batch = batch_for(task)
    with checked(task.network):
        task(batch.audio, batch.audio_len)


def test_spec_augment_stands_in_the_chain_where_it_is_set(task):
    tree = task.config_tree()
    tree["features"]["spec_augment"] = {"num_freq_masks": 1}
    assert list(dict(rebuild(tree).network.named_children())) == ["features", "spec_augment", "encoder", "head"]


def test_paths_pairs_arrays_and_tensors_give_the_same(task, tmp_path):
    pcm = (speech(0.7) * 32767).round().astype(np.int16)
    audio = pcm.astype(np.float32) / 32768
    soundfile.write(tmp_path / "a.wav", pcm, 16_000)
    sources = [tmp_path / "a.wav", str(tmp_path / "a.wav"), audio, torch.from_numpy(audio), (audio, 16_000)]
    sources += [(torch.from_numpy(audio), 16_000), np.stack([audio, audio]), pcm, torch.from_numpy(pcm)]
    results = run(task, sources)
    assert len(results) == len(sources)
    for result in results:
        assert result[0] == results[0][0]


def test_another_rate_is_resampled(task):
    results = run(task, [speech(0.7), (speech(0.7, rate=8000), 8000)])
    assert len(results) == 2


def scores(task, sources, batch_size):
    """The probabilities of each recording in input order, whatever the verb makes of them."""
    read = (lambda out: list(out.softmax(-1))) if kind_of(task) == "classification" else by_length
    return task.answer(sources, batch_size, read)


def by_length(out):
    return [x[:n].exp() for x, n in zip(out.x, out.x_len, strict=True)]


def test_answers_keep_the_order_and_do_not_depend_on_the_batch(task):
    sources = [speech(s, seed=i) for i, s in enumerate((0.9, 0.2, 1.7, 0.4, 1.1, 0.05, 0.6))]
    alone = [scores(task, [source], 1)[0] for source in sources]
    for batch_size in (2, 3, 7, 16):
        for together, single in zip(scores(task, sources, batch_size), alone, strict=True):
            torch.testing.assert_close(together, single, atol=1e-5, rtol=0)
    assert [r[0] for r in run(task, sources)] == [run(task, [s])[0][0] for s in sources]


def test_more_recordings_than_are_read_at_a_time_keep_their_order(task, monkeypatch):
    monkeypatch.setattr("anemone.tasks.speech.WINDOW", 2)
    sources = [speech(0.1 + 0.05 * (i * 5 % 7), seed=i) for i in range(11)]
    expected = [r[0] for r in run(task, sources, batch_size=16)]
    assert [r[0] for r in run(task, iter(sources), batch_size=2)] == expected


def test_no_recordings_give_no_answers(task):
    assert run(task, []) == []


@pytest.mark.parametrize("samples", [1, 80, 159, 160, 161, 400])
def test_very_short_recordings_are_answered(task, samples):
    result = run(task, [np.full(samples, 0.1, np.float32), speech(0.5)])[0]
    assert isinstance(result[0], str)
    for x in scores(task, [np.full(samples, 0.1, np.float32)], 1):
        assert x.isfinite().all() and x.numel()


def test_very_short_recordings_can_be_learned_from(task):
    batch = batch_for(task, (0.3, 0.001))
    loss = task.loss(batch) if kind_of(task) == "classification" else None
    if loss is None:
        with pytest.warns(UserWarning, match=r"rows \[1\] have fewer frames than their text needs"):
            loss = tiny("recognition").loss(batch)
    assert loss.total.isfinite()


@pytest.mark.parametrize(
    "sources, words",
    [
        ("a.wav", r"`sources` must be a list of recordings, but is a str instead.*write `\[recording\]`"),
        (torch.zeros(100), "must be a list of recordings, but is a Tensor"),
        ((np.zeros(100), 16_000), "must be a list of recordings, but is a tuple"),
        ((np.zeros(100), np.int64(16_000)), "must be a list of recordings, but is a tuple"),
        ((np.zeros(100), np.float32(16_000)), "must be a list of recordings, but is a tuple"),
        (3, "must be a list of recordings, but is a int"),
        ([np.zeros(0)], "recording 0 of `sources`: audio must be"),
        ([speech(0.1), {"a": 1}], "recording 1 of `sources`: audio must be"),
        ([speech(0.1), np.full(100, np.nan)], "recording 1 of `sources`: audio must be finite"),
        (["nowhere.wav"], "recording 0 of `sources`: `nowhere.wav`.* does not exist"),
    ],
)
def test_what_is_no_list_of_recordings_is_refused(task, sources, words):
    with pytest.raises(DataError, match=words):
        run(task, sources)


def test_an_array_of_samples_is_not_taken_for_a_list(task):
    with pytest.raises(DataError, match="must be a list of recordings, but is a ndarray"):
        run(task, np.zeros(100, np.float32))


def test_a_batch_size_below_one_is_refused(task):
    with pytest.raises(DataError, match="`batch_size` must be 1 or more, but is 0 instead"):
        run(task, [speech(0.1)], batch_size=0)


def test_modes_and_gradients_are_put_back():
    task = tiny("classification").train()
    task.network.head.eval()
    run(task, [speech(0.2)])
    assert task.training and task.network.encoder.training and not task.network.head.training
    assert all(p.requires_grad for p in task.parameters())
    with pytest.raises(DataError):
        run(task, ["nowhere.wav"])
    assert task.training and not task.network.head.training


def test_verbs_neither_change_weights_nor_statistics(task):
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    task.train()
    run(task, [speech(0.3), speech(0.2)])
    task.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())


def test_loss_of_a_batch_is_the_sum_of_its_parts(task):
    batch = batch_for(task)
    whole = task.loss(batch)
    parts = []
    for i in range(3):
        samples, labels = int(batch.audio_len[i]), int(batch.target_len[i])
        part = Batch(
            batch.audio[i : i + 1, :samples],
            batch.audio_len[i : i + 1],
            batch.targets[i : i + 1, :labels],
            batch.target_len[i : i + 1],
            batch.rows[i : i + 1],
        )
        parts.append(task.loss(part))
    torch.testing.assert_close(sum(p.total for p in parts), whole.total, atol=1e-3, rtol=1e-5)
    assert sum(p.count for p in parts) == whole.count
    whole.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
    task.zero_grad()


def test_states_add_and_start_from_zero(task):
    batch, other = batch_for(task), batch_for(task, (0.6, 0.4))
    states, zero = [task.evaluate(batch), task.evaluate(other)], task.zero_states()
    assert {k: (v.shape, v.dtype) for k, v in zero.items()} == {k: (v.shape, v.dtype) for k, v in states[0].items()}
    total = {name: zero[name] + states[0][name] + states[1][name] for name in zero}
    assert total["count"].item() == 5
    summary = task.summarize(total)
    assert task.monitor[0] in summary and summary["loss"] > 0
    assert all(isinstance(value, float) for value in summary.values())
    assert not any(v.requires_grad for v in total.values())
    assert task.summarize(zero)["loss"] == 0.0


def test_the_loss_is_float32_under_autocast(task):
    batch = batch_for(task)
    with torch.autocast("cpu", torch.bfloat16):
        low = task.loss(batch)
    assert low.total.dtype == torch.float32
    torch.testing.assert_close(low.total, task.loss(batch).total, rtol=0.05, atol=0)


def test_a_copy_is_a_task_of_its_own(task):
    again = copy.deepcopy(task)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    assert any(p.any() for p in task.parameters())
    assert again.encode("yes") == task.encode("yes")


def test_a_loss_of_another_task_is_refused(task):
    from anemone.losses.cross_entropy import CrossEntropyConfig
    from anemone.losses.ctc import CTCConfig

    wrong = CTCConfig() if kind_of(task) == "classification" else CrossEntropyConfig()
    parts = task.parts
    with pytest.raises(ConfigError, match="`loss` must be of the kind"):
        build(parts.task, parts.model, parts.features, loss=wrong)


def test_it_builds_on_meta(task):
    with torch.device("meta"):
        assert all(p.is_meta for p in rebuild(task.config_tree(), task.files()).parameters())


def test_scores_that_are_not_finite_are_no_answer(task):
    lost = copy.deepcopy(task)
    with torch.no_grad():
        lost.network.head.linear.bias[0] = torch.nan
    with pytest.raises(DataError, match=r"recording 1 of `sources`: the scores of the network are not finite"):
        run(lost, [speech(0.7), speech(0.3)])


def test_frames_beyond_a_recordings_length_may_hold_anything():
    scores = torch.zeros(2, 3, 4)
    scores[0, 2] = torch.nan
    scores[1, 1, 0] = torch.inf
    assert _finite((scores, torch.tensor([2, 2]))).tolist() == [True, False]
