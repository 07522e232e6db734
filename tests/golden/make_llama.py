"""Writes tests/golden/llama: tiny models in Hugging Face's format, and what `transformers` computes with them.

Run by hand with transformers 5 beside torch, never by the tests: `python tests/golden/make_llama.py`.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig
from transformers import MixtralForCausalLM as Mixtral

HOME = Path(__file__).parent / "llama"
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}
SCALING = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MODELS = {
    "grouped": LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2)),
    "tied": LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=4, tie_word_embeddings=True)),
    "scaled": LlamaForCausalLM(
        LlamaConfig(**SMALL, num_key_value_heads=1, head_dim=12, rope_parameters=SCALING, rms_norm_eps=1e-5)
    ),
    "window": MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=5)),
    "experts": Mixtral(
        MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    ),
}


def main() -> None:
    """Writes a folder a model: `config.json`, safetensors (in shards for one), and `reference.npz`."""
    for name, model in MODELS.items():
        generator = torch.Generator().manual_seed(sum(name.encode()))
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else 0.2 * noise)
        tokens = torch.randint(64, (2, 40), generator=generator)
        model.eval()
        out = model(tokens, labels=tokens)
        out.loss.backward()
        norms = {f"norm {key}": p.grad.norm().numpy() for key, p in model.named_parameters()}
        model.save_pretrained(HOME / name, max_shard_size="60KB" if name == "experts" else "1GB")
        (HOME / name / "generation_config.json").unlink(missing_ok=True)
        np.savez_compressed(
            HOME / name / "reference.npz",
            tokens=tokens.numpy(),
            logits=out.logits.detach().numpy(),
            loss=out.loss.detach().numpy(),
            **norms,
        )


if __name__ == "__main__":
    main()
