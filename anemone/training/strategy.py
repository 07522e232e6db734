"""The Lightning strategy of all runs over a mesh: it joins the processes and lays them out, and wraps nothing."""

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy

from anemone.parallel.mesh import Mesh, ParallelConfig


class Joined(DDPStrategy):
    """Starts the processes, joins them into one group, and makes their mesh; the engine itself does the rest.

    Args:
        parallel: the degrees of the mesh.
    """

    mesh: Mesh
    """Known once the processes are joined."""

    def __init__(self, parallel: ParallelConfig) -> None:
        super().__init__()
        self.parallel = parallel

    def setup_environment(self) -> None:
        """Joins the processes, and makes the mesh."""
        super().setup_environment()
        self.mesh = Mesh(self.parallel, self.root_device.type)

    def configure_ddp(self) -> None:
        """Leaves the module as it is."""

    def teardown(self) -> None:
        """Lets the processes go, so that the next run of this one may join others.

        A network that failed before it had memory stays as it is: Lightning would move it, and hide why it failed.
        """
        module = self._lightning_module
        if module is not None and any(parameter.is_meta for parameter in module.parameters()):
            self._lightning_module = None
        super().teardown()
        if dist.is_initialized():
            dist.destroy_process_group()
