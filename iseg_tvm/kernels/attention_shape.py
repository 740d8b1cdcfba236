"""Shape and blocking that all attention kernels share, and which block of queries a task takes."""

from __future__ import annotations

from dataclasses import dataclass

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.shiftmax import ShiftExponential
from iseg_tvm.kernels.vector import Expr, T


@dataclass(frozen=True)
class AttentionShape:
    """Shapes and blocking.

    Attributes
    ----------
    isa : with the register block of the first product
    block_rows : queries that a task handles
    """

    isa: Isa
    tokens: int
    heads: int
    head_width: int
    block_rows: int
    exponential: ShiftExponential
    post_shift: int

    @property
    def width(self) -> int:
        """Model width: heads * head width."""
        return self.heads * self.head_width

    @property
    def blocks(self) -> int:
        """Query blocks of one head."""
        return -(-self.tokens // self.block_rows)

    @property
    def tasks(self) -> int:
        """Parallel tasks: a block of queries of one head each."""
        return self.heads * self.blocks

    def of_task(self, task: Expr) -> tuple[Expr, Expr]:
        """(head, block) of a task.

        All heads of a block follow one another, so that a thread's tasks are rows that it also has
        in the linear layers before and after; the short last block comes first, because the first
        threads get one task more than the others.
        """
        turned = task // self.heads + (self.blocks - 1)
        return T.Bind(task % self.heads), T.Bind(turned % self.blocks)
