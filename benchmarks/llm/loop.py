"""A loop by hand in plain PyTorch: what a good engineer writes in an hour, without any framework."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from work import BATCH, CLIP, LR, SEQUENCE, WEIGHT_DECAY, Size, arguments, feed, ready


class Attention(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.width = size.d_model // size.num_heads
        self.groups = size.num_heads // size.num_kv_heads
        kv = size.num_kv_heads * self.width
        self.query = nn.Linear(size.d_model, size.d_model, bias=False)
        self.key = nn.Linear(size.d_model, kv, bias=False)
        self.value = nn.Linear(size.d_model, kv, bias=False)
        self.output = nn.Linear(size.d_model, size.d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (p(x).view(b, n, -1, self.width).transpose(1, 2) for p in (self.query, self.key, self.value))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.output(y.transpose(1, 2).reshape(b, n, -1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return (x * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(size.d_model, 1e-5), nn.RMSNorm(size.d_model, 1e-5)
        self.attention = Attention(size)
        self.gate = nn.Linear(size.d_model, size.d_ff, bias=False)
        self.up = nn.Linear(size.d_model, size.d_ff, bias=False)
        self.down = nn.Linear(size.d_ff, size.d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cos, sin)
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocab_size, size.d_model)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.num_layers))
        self.norm = nn.RMSNorm(size.d_model, 1e-5)
        self.head = nn.Linear(size.d_model, size.vocab_size, bias=False)
        width = size.d_model // size.num_heads
        angles = torch.arange(SEQUENCE)[:, None] * 10_000.0 ** (-torch.arange(0, width, 2) / width)
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


def main() -> None:
    size, bf16 = arguments()
    model = Llama(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    ready(sum(p.numel() for p in model.parameters()))
    for batch in feed(size):
        inputs, targets = batch[:, :-1], batch[:, 1:]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(inputs)
            loss = F.cross_entropy(logits.float().view(BATCH * SEQUENCE, -1), targets.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()


if __name__ == "__main__":
    main()
