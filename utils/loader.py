"""DataLoaders that resume exactly, survive Ctrl-C and say which row failed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.interrupt import prepare_loader_process


class RowError(RuntimeError):
    """A row of the data set that could not be loaded during training; the text says which and why."""


class NamedRows(Dataset):
    """A data set whose errors name the row: `describe(index)` in words."""

    def __init__(self, dataset: Dataset, describe: Callable[[int], str]) -> None:
        self.dataset, self.describe = dataset, describe

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key):
        try:
            return self.dataset[key]
        except Exception as error:
            index = key[0] if isinstance(key, tuple) else key
            raise RowError(f"{self.describe(index)}: {type(error).__name__}: {error}") from error


def build_loader(
    dataset: Dataset,
    sampler: Sampler,
    *,
    collate: Callable,
    describe: Callable[[int], str],
    num_workers: int,
    device: torch.device,
) -> DataLoader:
    """Loader of the batches of keys that `sampler` yields; `describe(row)` names a row in error messages."""
    return DataLoader(
        NamedRows(dataset, describe),
        batch_sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
        # Otherwise every pass would draw from the global random numbers, and a resumed epoch once more than
        # another.
        generator=torch.Generator(),
    )


@contextlib.contextmanager
def explain_loader_death() -> Iterator[None]:
    """Turn torch's word of a loader process that was killed into a ChildProcessError that says what to do.

    Torch raises it wherever the training process is at that moment.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ChildProcessError(
            f"a process that loads pictures ended: {error}. The system kills programs when memory runs out: try "
            "fewer --num-workers or a smaller --batch-size; 0 workers load in the training process and show an error "
            "of their own."
        ) from error


def _start_worker(worker_id: int) -> None:
    import cv2  # here, so that only loader processes need it

    prepare_loader_process()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
