"""The way back for Conformers and transducers: from our settings to NeMo's, by the tables that read them."""

from collections.abc import Mapping

from anemone.checkpoint.names import conformer, transducer
from anemone.checkpoint.names.heads import CTC_DECODERS, their_tokenizer
from anemone.checkpoint.names.rules import Sizes, Written, back, revert
from anemone.config import Tree

POSITIONS_LEN = 5000  # frames for which NeMo makes positions before it sees any
LOSSES = {"rnnt": "warprnnt_numba", "multi_blank": "multiblank_rnnt", "tdt": "tdt"}
DECODED = {"rnnt": "rnnt", "multi_blank": "multiblank", "tdt": "tdt"}
USUAL = {"reduction": "mean_batch", "fastemit": 0.0, "clamp": 0.0, "sigma": 0.0, "omega": 0.0}  # where none is set
CLASSES = "nemo.collections.asr.models."


def their_conformer(model: Tree, sizes: Sizes) -> Tree:
    """Returns NeMo's groups of settings for an encoder.

    Args:
        model: ours, every number written out.
        sizes: of what stands around it.
    """
    see, sample, reduction = model["attention"], model["subsampling"], model["reduction"] or {}
    past, kernel = model["kernel_past"], model["kernel"]
    norm = f"group_norm{model['norm_groups']}" if model["norm"] == "group" else back(conformer.NORMS)(model["norm"])
    ((name, _),) = conformer.ENCODERS.items()
    encoder = {
        **revert({**model, **see, **sample}, conformer.ENCODER),
        "feat_in": sizes.num_features,
        "subsampling": "striding" if sample["kind"] == "none" else sample["kind"],
        "reduction": reduction.get("kind"),
        "reduction_position": -1 if reduction and reduction["after"] is None else reduction.get("after"),
        "reduction_factor": reduction.get("factor", 1),
        "pos_emb_max_len": POSITIONS_LEN,
        "conv_norm_type": norm,
        "conv_context_size": None if past is None else [past, kernel - 1 - past],
    }
    return {"encoder": {"_target_": name, **encoder}}


def their_transducer(config: Tree, files: Mapping[str, bytes], sizes: Sizes) -> Written:
    """Returns NeMo's settings of a transducer of any kind, with CTC beside it or without.

    Args:
        config: our settings.
        files: of the tokenizer.
        sizes: of what stands around the head.

    Raises:
        ConfigError: NeMo has no such tokenizer.
    """
    head, loss = config["task"]["head"], config["loss"]
    hybrid = head["kind"] == "hybrid"
    special = {name: list(head[name]) for name in ("durations", "big_blanks") if head[name]}
    written, artifacts = their_tokenizer(config["task"]["tokenizer"], files)
    labels = written.get("labels", [])
    usual: Tree = {"kind": "tdt" if head["durations"] else "multi_blank" if head["big_blanks"] else "rnnt", **USUAL}
    plain = (loss["transducer"] or usual) if hybrid else loss
    widths = {"enc_hidden": sizes.d_model, "pred_hidden": head["predictor"]["d_model"], "joint_hidden": head["d_joint"]}
    module, name = ("hybrid_rnnt_ctc", "EncDecHybridRNNTCTC") if hybrid else ("rnnt", "EncDecRNNT")
    settings = {
        "target": f"{CLASSES}{module}{'_bpe' * bool(files)}_models.{name}{'BPE' * bool(files)}Model",
        "model_defaults": {
            **widths,
            "num_tdt_durations": len(head["durations"]),
            "tdt_durations": list(head["durations"]),
        },
        **written,
        "labels": labels,
        "decoder": _their_predictor(head["predictor"], sizes),
        "joint": _their_joint(head, labels, special, sizes),
        "loss": _their_loss(plain, special),
        "rnnt_reduction": plain["reduction"],
        "decoding": _their_decoding(config, plain["kind"], special),
    }
    if hybrid:
        ctc = {"feat_in": sizes.d_model, "num_classes": sizes.vocab_size, "vocabulary": labels}
        settings["aux_ctc"] = {
            "ctc_loss_weight": loss["ctc_weight"],
            "ctc_reduction": (loss["ctc"] or USUAL)["reduction"],
            "use_cer": False,
            "decoder": {"_target_": next(iter(CTC_DECODERS)), **ctc},
            "decoding": {"strategy": "greedy"},
        }
    return Written(settings, artifacts)


def _their_predictor(predictor: Tree, sizes: Sizes) -> Tree:
    kinds = {kind: (name, inside, around) for name, (kind, inside, around) in transducer.DECODERS.items()}
    name, inside, around = kinds[predictor["kind"]]
    net = {"pred_rnn_layers": 1, **revert(predictor, inside)}
    outer = revert(predictor, around)
    pads = {"blank_as_pad": True} if predictor["kind"] == "lstm" else {}  # NeMo's other class has no such setting
    return {"_target_": name, "vocab_size": sizes.vocab_size, **pads, "prednet": net, **outer}


def _their_joint(head: Tree, labels: list[str], special: Tree, sizes: Sizes) -> Tree:
    net = revert(head, transducer.JOINT_NET)
    net |= {"encoder_hidden": sizes.d_model, "pred_hidden": head["predictor"]["d_model"]}
    return {
        "_target_": next(iter(transducer.JOINTS)),
        "num_classes": sizes.vocab_size,
        "num_extra_outputs": sum(len(frames) for frames in special.values()),
        "vocabulary": labels,
        "log_softmax": None,
        **revert(head, transducer.JOINT),
        "fuse_loss_wer": False,
        "jointnet": net,
    }


def _their_loss(loss: Tree, special: Tree) -> Tree:
    name = LOSSES[loss["kind"]]
    _, group, table = transducer.LOSSES[name]
    return {"loss_name": name, group: revert({**loss, **special}, table)}


def _their_decoding(config: Tree, kind: str, special: Tree) -> Tree:
    """Greedy decoding; NeMo has no batched one for multi-blank models."""
    named = {"durations": "durations", "big_blanks": "big_blank_durations"}
    return {
        "strategy": "greedy" if kind == "multi_blank" else "greedy_batch",
        "model_type": DECODED[kind],
        **{named[name]: frames for name, frames in special.items()},
        "greedy": {"max_symbols": config["decoding"]["max_symbols"]},
    }
