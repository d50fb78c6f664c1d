"""MedSAM2 as a contestant: box and point prompts on a frame, and a mask carried through a cine.

    contestant = build_medsam2_contestant("MedSAM2_latest.pt")
    answer = contestant.segment(frame, Prompt(box_px=(120, 80, 300, 260)))
    masks = contestant.propagate(frames, Prompt(box_px=(120, 80, 300, 260)), frame_index=12)
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from contest.contestant import NO_VIEW, Answer, Contestant, Prompt
from models.medsam2 import HOW_TO_GET, build_medsam2, load_medsam2_weights
from utils.checkpoint import MissingWeights

STRIDES_PX = (4, 8, 16)  # of a cell of each map of the image encoder, finest first
OBJECT = 1  # there is one, and the package wants a number


class Medsam2Contestant(Contestant):
    """A model of `models.medsam2.build_medsam2`, asked through the predictors of its package.

    weights: in words, for `about`.
    """

    prompts = frozenset({"box", "points"})

    def __init__(self, model: torch.nn.Module, *, weights: str, is_random: bool):
        self.model = model.eval()
        self.name = "medsam2 (random weights)" if is_random else "medsam2"
        self.about = f"MedSAM2 (SAM 2.1 Hiera-tiny) at {model.image_size} px, {weights}"
        self.is_random = is_random

    def encode(self, frame: np.ndarray, view_deg: Sequence[float] = NO_VIEW) -> object:
        """A `SAM2ImagePredictor` with the frame in it; the model does not know views."""
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        predictor = SAM2ImagePredictor(self.model, disable_torch_jit=True)
        # It takes every image to be of 1024 px.
        predictor._bb_feat_sizes = [(self.model.image_size // stride_px,) * 2 for stride_px in STRIDES_PX]
        predictor.set_image(frame)
        return predictor

    def answer(self, encoded: object, prompt: Prompt) -> Answer:
        """The mask of one prompt and the model's own estimate of its IoU.

        A single point may mean a segment, the vessel or the tree: it gets the best of three masks by that estimate. A
        box or several points get the one mask that they say enough for, as the package advises and its video predictor
        does; where that one is unstable, the package itself puts the best of three in its place.
        """
        self.check_prompt(prompt)
        masks, scores, _ = encoded.predict(
            point_coords=prompt.points_px, point_labels=prompt.point_labels, box=prompt.box_px,
            multimask_output=len(prompt.points_px or ()) == 1,
        )
        best = int(np.argmax(scores))
        return Answer(masks[best] > 0, float(scores[best]))

    def propagate(self, frames: np.ndarray, prompt: Prompt, frame_index: int) -> np.ndarray:
        """The mask of `prompt` on frame `frame_index`, carried forward and backward through a cine.

        frames: uint8 RGB (T, H, W, 3). Returns bool (T, H, W), empty where the model takes the object to be out of
        sight, which `answer` does not ask. ValueError for a kind of prompt that it does not take, or no such frame.
        """
        self.check_prompt(prompt)
        if not 0 <= frame_index < len(frames):
            raise ValueError(f"frame {frame_index} of a cine of {len(frames)} frames, counted from 0")
        with frames_in_place_of_a_file(self._as_images(frames), frames.shape[1:3]):
            state = self.model.init_state(video_path="")
        masks = np.zeros(frames.shape[:3], bool)
        for backward in (False, True):
            # Anew from the prompt, as in MedSAM2's own inference: what follows it is no memory for what went before.
            self.model.reset_state(state)
            self.model.add_new_points_or_box(
                state, frame_index, OBJECT, points=prompt.points_px, labels=prompt.point_labels, box=prompt.box_px
            )
            for index, _, logits in self.model.propagate_in_video(state, reverse=backward):
                masks[index] = (logits[0, 0] > 0).cpu().numpy()
        return masks

    def _as_images(self, frames: np.ndarray) -> list[torch.Tensor]:
        """Frames as `encode` gives them to the model, so that both see the same pixels."""
        from sam2.utils.transforms import SAM2Transforms

        transforms = SAM2Transforms(self.model.image_size, mask_threshold=0.0, disable_torch_jit=True)
        return [transforms(frame) for frame in frames]


@contextlib.contextmanager
def frames_in_place_of_a_file(images: Sequence[torch.Tensor], size_px: tuple[int, int]) -> Iterator[None]:
    """Within it, `SAM2VideoPredictor.init_state` takes `images` for its video, of `size_px` = (height, width).

    It knows only a folder of JPEGs or an MP4. The state that it makes is its own business, many dicts, and is not made
    here: the function by which it reads a file is exchanged meanwhile.
    """
    module = importlib.import_module("sam2.sam2_video_predictor")
    own = module.load_video_frames
    module.load_video_frames = lambda **_: (images, *size_px)
    try:
        yield
    finally:
        module.load_video_frames = own


def build_medsam2_contestant(
    checkpoint: str | Path | None = None, *, random_init: bool = False, device: str | torch.device = "cpu"
) -> Medsam2Contestant:
    """MedSAM2 from its released checkpoint, or with `random_init` from random weights, under a name that says so.

    MissingWeights where neither is given or the file is not there; CheckpointError where it does not fit.
    """
    if checkpoint is None and not random_init:
        raise MissingWeights(f"MedSAM2's weights are not at hand: {HOW_TO_GET}.")
    model = build_medsam2()
    weights = "random weights" if random_init else load_medsam2_weights(model, checkpoint)
    return Medsam2Contestant(model.to(device), weights=weights, is_random=random_init)
