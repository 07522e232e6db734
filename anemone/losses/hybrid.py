"""A transducer's loss and CTC on one encoder, added."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from anemone.config import load_class, must, of_kind
from anemone.losses import LOSSES, Criterion, LossSum
from anemone.losses.ctc import CTCConfig, check_shares
from anemone.losses.transducer import kind_for

TRANSDUCERS = {kind: LOSSES[kind] for kind in ("multi_blank", "rnnt", "tdt")}


@dataclass(frozen=True, kw_only=True)
class HybridLossConfig:
    """``(1 - ctc_weight) * transducer + ctc_weight * ctc``."""

    transducer: Any = of_kind(TRANSDUCERS, optional=True)
    """The loss of the transducer; that of its kind of head if left out."""

    ctc: CTCConfig = field(default_factory=CTCConfig)
    """The loss of CTC."""

    ctc_weight: float = 0.3
    """Share of CTC."""

    intermediate_weights: tuple[float, ...] = ()
    """Shares of CTC losses of inner layers of the encoder, one for each of `model.tap_layers`, in the whole."""

    def __post_init__(self) -> None:
        must(0 <= self.ctc_weight <= 1, "ctc_weight", "between 0 and 1", value=self.ctc_weight)
        check_shares(self.intermediate_weights)
        inner = self.ctc.intermediate_weights
        must(not inner, "ctc.intermediate_weights", "left out: set `loss.intermediate_weights`", value=inner)

    def build(self, head: Any) -> Criterion:
        """Returns the weighted sum; where the two are divided by unlike counts, CTC is brought to the other's.

        Args:
            head: a transducer that has ``label_scores`` too.

        Raises:
            ConfigError: the head is that of another loss.
        """
        transducer = self._of_transducer(head).build(head)
        ctc = self.ctc.build(head)

        def criterion(output: Any, targets: Tensor, target_len: Tensor) -> LossSum:
            first, second = transducer(output, targets, target_len), ctc(output, targets, target_len)
            share = self.ctc_weight * first.count / second.count.clamp(min=1)
            loss = LossSum((1 - self.ctc_weight) * first.total + share * second.total, first.count)
            scores = head.label_scores(output)
            return self.ctc.with_inner(loss, self.intermediate_weights, scores, targets, target_len)

        return criterion

    def infeasible(self, head: Any, x_len: Tensor, targets: Tensor, target_len: Tensor) -> Tensor:
        """Finds the utterances to which CTC or the transducer cannot be fitted; they add nothing to its part."""
        either = (self.ctc, self._of_transducer(head))
        first, second = (loss.infeasible(head, x_len, targets, target_len) for loss in either)
        found: Tensor = first | second
        return found

    def _of_transducer(self, head: Any) -> Any:
        return self.transducer or load_class(TRANSDUCERS[kind_for(head)])()
