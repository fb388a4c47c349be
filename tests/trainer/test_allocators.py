"""What a training tells of its allocators."""

import ctypes

import pytest

from trainbus.trainer_node.allocators import PERIOD, SHARE, Allocators

BLOCKS, BLOCK = 2_000, 60_000


def test_pieces_that_were_given_back_between_others_are_free_and_still_held():
    """The heap can't shrink below the last piece in use."""
    before = Allocators().read()
    if "heap_free" not in before:
        pytest.skip("this C library does not tell")
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    pieces = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
    held = Allocators().read()
    assert held["heap_used"] - before["heap_used"] >= 0.9 * BLOCKS * BLOCK
    for piece in pieces[:-1]:
        libc.free(piece)
    freed = Allocators().read()
    assert freed["heap_free"] - held["heap_free"] >= 0.9 * BLOCKS * BLOCK
    assert held["heap_used"] - freed["heap_used"] >= 0.9 * BLOCKS * BLOCK
    libc.free(pieces[-1])


def test_they_are_asked_seldom_and_the_more_seldom_the_longer_it_takes():
    """The share of the training's time has a bound."""
    times = iter([0.0, 10.0, 10.0, 20.0, 20.1])
    allocators = Allocators(lambda: next(times))
    assert allocators.due == PERIOD
    allocators.read()
    assert allocators.due == 10.0 + PERIOD
    allocators.read()
    assert allocators.due == pytest.approx(20.1 + 0.1 / SHARE)


def test_without_a_gpu_nothing_is_claimed_of_one():
    """A missing number is not zero."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_initialized():
        pytest.skip("a GPU is in use")
    assert not any(name.startswith("gpu") for name in Allocators().read())
