"""The files that a run leaves in its checkpoint folder, by stage."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.lora import trained_part
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.files import write_text_atomic
from utils.history import save_curves, to_json, write_history
from utils.ranks.distributed import Ranks, unwrap_model
from utils.training_state import Progress, TrainingState


@dataclass(frozen=True)
class RunFiles:
    """Names below `folder` for `stage` (`phase1_deepsa`, ...)."""

    folder: Path
    stage: str

    @property
    def latest(self) -> Path:
        """Everything needed to go on."""
        return self.folder / f"{self.stage}_latest.pth"

    @property
    def best(self) -> Path:
        """Weights of the best validation."""
        return self.folder / f"{self.stage}_best.pth"

    @property
    def adapter(self) -> Path:
        """Of `best` only what a LoRA run trained, megabytes; `python -m utils.export` joins it with its encoder."""
        return self.folder / f"{self.stage}_adapter.pth"

    @property
    def history(self) -> Path:
        """One JSON object per epoch."""
        return self.folder / f"{self.stage}_history.jsonl"

    @property
    def curves(self) -> Path:
        """The history as a picture."""
        return self.folder / f"{self.stage}_curves.png"

    @property
    def metrics(self) -> Path:
        """The last validation."""
        return self.metrics_of("val")

    def metrics_of(self, split: str) -> Path:
        """The last scores on `split`: those of val lie under the plain name, others have theirs in it."""
        return self.folder / f"{self.stage}_metrics{'' if split == 'val' else '_' + split}.json"

    def refuse_overwriting(self) -> None:
        """Raise FileExistsError when a run lies here already."""
        if self.latest.exists():
            raise FileExistsError(
                f"{self.latest} is of an earlier run. Add --resume to go on with it, or give another "
                "--checkpoint-dir, or delete it to start over."
            )

    def resume(self, state: TrainingState, ranks: Ranks) -> str:
        """Go on from `latest` of rank 0 if there is one; returns what happened, in words. All ranks must call it.

        Rank 0 reads it and sends it to the others, whose machines need not see its disk.
        """
        if not ranks.share(self.latest.exists()):
            return f"--resume: {self.latest} does not exist yet; starting from the beginning"
        checkpoint = ranks.share(load_checkpoint(self.latest) if ranks.is_main else None)
        notes = state.restore(checkpoint, ranks, source=str(self.latest))
        progress = state.progress
        done = f"epoch {progress.epoch + 1}, {progress.samples_done} of its samples done"
        text = f"going on from {self.latest}: {done}"
        return "\n".join([text, *(f"not as it was, so other bits will follow: {note}" for note in notes)])

    def save_latest(self, state: TrainingState, ranks: Ranks) -> None:
        """Write the whole state; all ranks must call it."""
        checkpoint = state.checkpoint(ranks)
        if ranks.is_main:
            save_checkpoint(self.latest, checkpoint)

    def save_epoch(
        self, state: TrainingState, ranks: Ranks, *, is_best: bool, panels: Mapping[str, Sequence[str]]
    ) -> None:
        """Write everything that a finished epoch leaves; all ranks must call it.

        `latest` comes last: until it is there, a resumed run does this epoch again and writes the same. It
        holds all that the metrics, history and curves show, so one of these that cannot be written is only
        warned of; raises OSError for `best`, `adapter` and `latest`.
        """
        if ranks.is_main:
            if is_best:
                self._save_best(state)
            self._save_records(state.progress, panels)
        self.save_latest(state, ranks)

    def save_metrics(self, metrics: Mapping, *, split: str = "val") -> Path:
        """Write the metrics of `split`, flat JSON; returns the file."""
        path = self.metrics_of(split)
        write_text_atomic(path, to_json(metrics, indent=2) + "\n")
        return path

    def draw(self, draw: Callable[[], None]) -> None:
        """Call `draw`, which writes pictures into this folder; one that cannot be written is only warned of."""
        try:
            draw()
        except OSError as error:
            warnings.warn(f"{error} The picture was not written; the scores are.", stacklevel=2)

    def picture(self, what: str) -> Path:
        """A picture of the last validation, such as `confusion`."""
        return self.folder / f"{self.stage}_{what}.png"

    def _save_best(self, state: TrainingState) -> None:
        weights = state.weights()
        save_checkpoint(self.best, weights)
        if state.config.get("lora"):
            parameters = unwrap_model(state.model).named_parameters()
            trained = {name for name, parameter in parameters if parameter.requires_grad}
            save_checkpoint(self.adapter, trained_part(weights, trained))

    def _save_records(self, progress: Progress, panels: Mapping[str, Sequence[str]]) -> None:
        writes = [
            lambda: write_history(self.history, progress.history),
            lambda: save_curves(self.curves, progress.history, panels=panels),
        ]
        if progress.metrics:  # none before the first validation
            writes.append(lambda: self.save_metrics(progress.metrics))
        for write in writes:
            try:
                write()
            except OSError as error:
                warnings.warn(f"{error} Training goes on; the next epoch writes it again.", stacklevel=3)
