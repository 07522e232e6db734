"""The same training by litgpt's own loop, `litgpt.pretrain.fit`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.model import GPT
from litgpt.pretrain import fit, initialize_weights
from work import BATCH, CLIP, LR, SEQUENCE, WEIGHT_DECAY, Size, arguments, feed, ready, tokens


class Batches:
    """The feed as litgpt's loop reads it, again and again."""

    def __init__(self, size: Size) -> None:
        self.size = size

    def __len__(self) -> int:
        return 1_000_000

    def __iter__(self) -> Iterator[torch.Tensor]:
        return feed(self.size)


def main() -> None:
    size, bf16 = arguments()
    config = Config(
        name="llama",
        block_size=SEQUENCE,
        n_layer=size.num_layers,
        n_head=size.num_heads,
        n_embd=size.d_model,
        n_query_groups=size.num_kv_heads,
        head_size=size.d_model // size.num_heads,
        intermediate_size=size.d_ff,
        padded_vocab_size=size.vocab_size,
        vocab_size=size.vocab_size,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=1e-5,
        mlp_class_name="LLaMAMLP",
    )
    fabric = L.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed" if bf16 else "32-true")
    model = GPT(config)
    initialize_weights(fabric, model, n_layer=config.n_layer, n_embd=config.n_embd)
    model.max_seq_length = SEQUENCE
    model = fabric.setup(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=False)
    optimizer = fabric.setup_optimizers(optimizer)
    train = TrainArgs(
        save_interval=None,
        log_interval=1,
        global_batch_size=BATCH,
        micro_batch_size=BATCH,
        lr_warmup_steps=10,
        max_tokens=10**12,
        max_norm=CLIP,
    )
    state = {"model": model, "optimizer": optimizer, "iter_num": 0, "step_count": 0}
    ready(sum(p.numel() for p in model.parameters()))
    fit(
        fabric=fabric,
        devices=1,
        state=state,
        train_dataloader=Batches(size),
        val_dataloader=[tokens(size, 0)],
        out_dir=Path(tempfile.mkdtemp()),
        tokenizer_dir=None,
        train=train,
        eval=EvalArgs(interval=10**9, max_iters=1, initial_validation=False, final_validation=False),
    )


if __name__ == "__main__":
    main()
