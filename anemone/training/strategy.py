"""The Lightning strategy of all runs with more than one process: it joins them, and wraps nothing."""

from lightning.pytorch.strategies import DDPStrategy


class Joined(DDPStrategy):
    """Starts the processes and joins them into one group; the engine itself sums gradients and statistics."""

    def configure_ddp(self) -> None:
        """Leaves the module as it is."""
