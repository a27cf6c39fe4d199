"""The heap that `RawValue` and `RawArray` take their memory from, as `multiprocessing.heap` has it.

The allocator is the standard library's. What differs from it:

* its arenas are weft's shared memory: no temporary file, no descriptor each, memory taken at once (MemoryError if there is
  none, where a sparse file ends in a SIGBUS), gone with the last process that has it, however that ends;
* a block that another process may still use is not given to somebody else. There, a value that only a child has left
  shares its place with the next one that its parent makes.
"""

from __future__ import annotations

import mmap
import os
import sys
from itertools import count
from typing import TYPE_CHECKING, Any

from weft import _native, _patches
from weft.multiprocessing import _regions
from weft.multiprocessing._stock import reduction, util

if TYPE_CHECKING:
    from typing import TypeAlias

    heap: Any

    _Block: TypeAlias = tuple["Arena", int, int]
else:
    from multiprocessing import heap

__all__ = ["BufferWrapper"]

# Orders the births of blocks, forks, and the passing on of arenas.
_clock = count(1)
_last_fork = 0


def _note_fork() -> None:
    global _last_fork
    _last_fork = next(_clock)


os.register_at_fork(after_in_parent=_note_fork)


class Arena(heap.Arena):  # type: ignore[misc, unused-ignore]
    """A piece of shared memory of `size` bytes, all zero.

    With the descriptor `fd` it is the file behind that, as in the standard library.
    """

    def __init__(self, size: int, fd: int = -1) -> None:
        # When others last got to know what is in it.
        self._passed_on = 0
        if fd != -1:
            super().__init__(size, fd)
            return
        region = _native.SharedRegion()
        region._create(size)
        self._hold(region)

    def _hold(self, region: _native.SharedRegion) -> None:
        self.size = region.nbytes
        self.fd = -1
        self.region = region
        self.buffer = memoryview(region)

    def is_shared(self) -> bool:
        """Whether another living process has it."""
        region: _native.SharedRegion | None = getattr(self, "region", None)
        return region is None or region._is_shared()


def _reduce_arena(arena: Arena) -> Any:
    arena._passed_on = next(_clock)
    if arena.fd != -1:
        return heap.rebuild_arena, (arena.size, reduction.DupFd(arena.fd))
    return _rebuild_arena, (arena.region,)


def _rebuild_arena(region: _native.SharedRegion) -> Arena:
    arena = Arena.__new__(Arena)
    arena._passed_on = 0
    arena._hold(region)
    return arena


reduction.register(Arena, _reduce_arena)
_regions.register(_native.SharedRegion)


class Heap(heap.Heap):  # type: ignore[misc, unused-ignore]
    """Blocks of memory out of arenas, which may be freed while other processes use them."""

    if TYPE_CHECKING:
        _lock: Any
        _size: int
        _arenas: list[Arena]
        _lengths: list[int]
        _len_to_seq: dict[int, list[_Block]]
        _start_to_block: dict[tuple[Arena, int], _Block]
        _stop_to_block: dict[tuple[Arena, int], _Block]
        _allocated_blocks: dict[Arena, set[tuple[int, int]]]
        _pending_free_blocks: list[_Block]

    def __init__(self, size: int = mmap.PAGESIZE) -> None:
        super().__init__(size)
        self._births: dict[tuple[Arena, int], int] = {}
        # By arena: blocks that this process has freed and others may use.
        self._retired: dict[Arena, list[_Block]] = {}

    def malloc(self, size: int) -> _Block:
        """A block of at least `size` bytes: its arena, where it begins, where it ends.

        Raises ValueError or OverflowError for a size that cannot be, MemoryError if there is no memory.
        """
        block: _Block = super().malloc(size)
        self._births[block[:2]] = next(_clock)
        return block

    def _new_arena(self, size: int) -> _Block:
        # Called by `malloc`, with the lock held, when no free block is large enough.
        self._free_unshared()
        length = self._roundup(max(self._size, size), mmap.PAGESIZE)
        if self._size < self._DOUBLE_ARENA_SIZE_UNTIL:
            self._size *= 2
        util.info("allocating shared memory of length %d", length)
        arena = Arena(length)
        self._arenas.append(arena)
        return arena, 0, length

    def _free_pending_blocks(self) -> None:
        # As there, but for what others may use.
        pending = self._pending_free_blocks
        while pending:
            self._free_block(pending.pop())

    def free(self, block: _Block) -> None:
        """Free a block of `malloc`; ValueError in another process than the one that it came from."""
        if os.getpid() != self._lastpid:
            raise ValueError(f"My pid ({os.getpid():n}) is not last pid {self._lastpid:n}")
        # The garbage collector may come here while the lock is held, by this thread even.
        if not self._lock.acquire(False):
            self._pending_free_blocks.append(block)
            return
        try:
            self._n_frees += 1
            self._free_pending_blocks()
            self._free_block(block)
        finally:
            self._lock.release()

    def _free_block(self, block: _Block) -> None:
        arena, start, _ = block
        born = self._births.pop((arena, start), 0)
        if born < max(_last_fork, arena._passed_on) and arena.is_shared():
            self._retire(block)
        else:
            self._add_free_block(block)
            self._remove_allocated_block(block)

    def _retire(self, block: _Block) -> None:
        """Leave a block, which is no longer this process's, to those who may use it."""
        arena = block[0]
        retired = self._retired.setdefault(arena, [])
        retired.append(block)
        used = sum(stop - start for _, start, stop in retired)
        if len(retired) == len(self._allocated_blocks[arena]) and used * 2 >= arena.size:
            # Nothing of it is in use here, and most of it will not be for long.
            self._forget(arena)

    def _free_unshared(self) -> None:
        """Free what was retired and nobody uses any more."""
        for arena in [arena for arena in self._retired if not arena.is_shared()]:
            for block in self._retired.pop(arena):
                self._add_free_block(block)
                self._remove_allocated_block(block)

    def _forget(self, arena: Arena) -> None:
        """Let go of an arena, which then lasts as long as others have it."""
        for block in [block for key, block in self._start_to_block.items() if key[0] is arena]:
            self._absorb(block)
        del self._retired[arena], self._allocated_blocks[arena]
        self._arenas.remove(arena)


class BufferWrapper(heap.BufferWrapper):  # type: ignore[misc, unused-ignore]
    """A block of `size` bytes out of the heap, until it is dropped. It can be passed on to children.

    Raises ValueError or OverflowError for a size that cannot be, MemoryError if there is no memory.
    """

    _heap = Heap()

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"Size {size:n} out of range")
        if sys.maxsize <= size:
            raise OverflowError(f"Size {size:n} too large")
        block = BufferWrapper._heap.malloc(size)
        self._state = block, size
        util.Finalize(self, BufferWrapper._heap.free, args=(block,))

    def __getstate__(self) -> dict[str, Any]:
        _regions.keep(self)
        return self.__dict__


def _reduce_earlier(wrapper: Any) -> Any:
    """For blocks of the standard library's class that were made before it was replaced."""
    return _restored, (wrapper._state,)


def _restored(state: Any) -> BufferWrapper:
    wrapper = BufferWrapper.__new__(BufferWrapper)
    wrapper._state = state
    return wrapper


reduction.register(heap.BufferWrapper, _reduce_earlier)

_patches.finish(__name__)
