"""The same training by transformers' Trainer, with its defaults."""

import tempfile
from collections.abc import Iterator

import torch
from torch.utils.data import IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from work import BATCH, CLIP, LR, SEQUENCE, WEIGHT_DECAY, Size, arguments, feed, ready


class Rows(IterableDataset):
    """The feed, row by row; the Trainer makes batches of them again."""

    def __init__(self, size: Size) -> None:
        self.size = size

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in feed(self.size):
            for row in batch[:, :-1]:  # the model shifts the labels itself
                yield {"input_ids": row, "labels": row}


def main() -> None:
    size, bf16 = arguments()
    config = LlamaConfig(
        hidden_size=size.d_model,
        intermediate_size=size.d_ff,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_kv_heads,
        vocab_size=size.vocab_size,
        max_position_embeddings=SEQUENCE,
        tie_word_embeddings=False,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    arguments_ = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH,
        learning_rate=LR,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP,
        max_steps=1_000_000,
        bf16=bf16,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    ready(sum(p.numel() for p in model.parameters()))
    Trainer(model=model, args=arguments_, train_dataset=Rows(size)).train()


if __name__ == "__main__":
    main()
