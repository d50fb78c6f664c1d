"""Contestants in the test's own process, without the seconds that a process of its own takes to begin.

    monkeypatch.setattr(arena, "_run_one", play_here)
"""

from __future__ import annotations

import multiprocessing

from contest import arena


def play_here(entry: str, contest: arena.Contest, settings: arena.Settings) -> arena.Entry:
    """In place of `contest.arena._run_one`; what it sends must fit into a pipe, so a few cases."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    arena._play(entry, contest, settings, sender)
    return receiver.recv()
