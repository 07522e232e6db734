"""How well a model of text knows what comes next."""

import math


def perplexity(nats: float, tokens: float) -> float:
    """Computes ``exp(nats / tokens)``: among how many tokens, all as likely, the model would be as unsure.

    Example:
        >>> round(perplexity(math.log(8) * 5, 5))
        8

    Args:
        nats: minus the log-probability of all tokens, summed.
        tokens: their number.
    """
    return math.exp(min(nats / max(tokens, 1.0), 700.0))


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """Computes ``nats / (ln 2 * bytes)``: comparable between tokenizers, as a perplexity is not.

    Example:
        >>> bits_per_byte(math.log(2) * 30, 15)
        2.0

    Args:
        nats: minus the log-probability of a text, summed over its tokens.
        num_bytes: of the text in UTF-8.
    """
    return nats / math.log(2) / max(num_bytes, 1.0)
