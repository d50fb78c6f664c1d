"""SAM 3, the whole image model of the package `sam3`, asked with a text, a box or points about one frame.

    python -m contest.sam3 angiogram.png --text "coronary artery" --sam3-checkpoint sam3.pt --out answer.png
    python -m contest.sam3 angiogram.png --text "coronary artery" --box 180 90 260 170 --random-init --out answer.png
    python -m contest.sam3 cine.npy --frame 31 --point 210 145 --sam3-checkpoint sam3.pt --device cuda --out answer.png

Runs on a CPU too, without triton or CUDA: 860 M parameters, a good minute and 5 GB of memory for the second command on
two cores. Prints the time of each part and the peak of memory, and draws what was answered. Not a medical device: for
research only.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from contest.contestant import NO_VIEW, Answer, Contestant, Prompt
from contest.cost import PeakMemory, timed
from contest.pictures import draw_prompt
from data.frame_source import open_frames
from models.sam3_image_model import ARCHITECTURES, build_sam3_image_model
from models.sam3_package import import_image_modules
from utils.arguments import HelpFormatter, add_device_argument, choose_amp, choose_device, non_negative_int
from utils.drawing import mask_overlay, save_gallery
from utils.entry import clean_exit

# What the package puts in the place of a text where only a box is given (`Sam3Processor.add_geometric_prompt`).
NO_TEXT = "visual"
BOX_MEANINGS = ("exemplar", "object")
RANDOM = "random weights: the answers mean nothing"


class Detections(NamedTuple):
    """What the detector proposes, N queries, all float32.

    probability: (N,) in [0, 1]; box: (N, 4) as x0, y0, x1, y1 in [0, 1] of the frame; mask_logits: (N, h, w), of the
    model's own resolution.
    """

    probability: torch.Tensor
    box: torch.Tensor
    mask_logits: torch.Tensor


class Sam3Contestant(Contestant):
    """SAM 3 as its package processes each kind of prompt.

    text: the detector looks for everything so called; the mask is the union of the instances above the package's
    confidence threshold (0.5), empty where there is none, the score that of the best, also where it is below.

    box, with box_means="exemplar": the detector takes it as an example and looks for everything like it; the one
    instance is answered that has the highest product of probability and IoU of its box with the one given, whatever its
    probability, which is the score. With box_means="object" the box means the thing in it, as in SAM 1 and 2: it is
    answered as points are.

    points: the detector was not trained with them. They go to the decoder that SAM 3 has from SAM 2, fed by the second
    neck of the same image encoder (`Sam3Image.predict_inst`): of one point the best of three masks, of several the one
    mask; the score is the IoU that the decoder expects. It closes holes of up to 256 px of its masks' resolution, which
    is that of the picture / 3.5, so small meshes between vessels too.

    Frames are resized to the square that the model sees (1008 px), whatever their shape. amp: bf16 autocast or float32.
    """

    prompts = frozenset({"text", "box", "points"})

    def __init__(self, model: torch.nn.Module, *, device: torch.device, amp: bool = False, is_random: bool = False,
                 box_means: str = "exemplar"):
        if box_means not in BOX_MEANINGS:
            raise ValueError(f"box_means {box_means!r}: allowed: {', '.join(BOX_MEANINGS)}")
        self.model, self.device, self.amp, self.is_random = model.to(device), device, amp, is_random
        self.box_means = box_means
        self.name = "sam3" + (" (box as object)" if box_means == "object" else "")
        self.name += " (random weights)" if is_random else ""
        self.about = _describe(model, is_random)
        self._processor = import_image_modules().sam3_image_processor.Sam3Processor(
            model, resolution=model.image_size, device=device
        )
        self._texts: dict[str, dict[str, torch.Tensor]] = {}

    def encode(self, frame: np.ndarray, view_deg: Sequence[float] = NO_VIEW) -> dict[str, Any]:
        """The image encoder's features of a frame, uint8 RGB (H, W, 3), 0.35 GB at 1008 px; the view is not used."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
        with self._inference():
            # Channels first: of an array (H, W, 3) the processor would take the last two sides for the picture's size.
            return self._processor.set_image(torch.tensor(frame).permute(2, 0, 1))

    def answer(self, encoded: dict[str, Any], prompt: Prompt) -> Answer:
        self.check_prompt(prompt)
        with self._inference():
            if prompt.text is not None:
                return self._all_called(encoded, prompt.text)
            if prompt.box_px is None:
                return self._object_at(encoded, points_px=prompt.points_px, labels=prompt.point_labels)
            if self.box_means == "object":
                return self._object_at(encoded, box_px=prompt.box_px)
            return self._like_the_example(encoded, prompt.box_px)

    def _all_called(self, encoded: dict[str, Any], text: str) -> Answer:
        found = self._detect(encoded, text)
        logits = found.mask_logits[found.probability > self._processor.confidence_threshold]
        mask = np.zeros(_frame_size(encoded), bool)
        if len(logits):
            mask = _resized(logits, encoded).any(axis=0)
        return Answer(mask, float(found.probability.max()))

    def _like_the_example(self, encoded: dict[str, Any], box_px: Sequence[float]) -> Answer:
        height, width = _frame_size(encoded)
        # In the package pixel 0 reaches from 0 to 1, in a prompt its centre is 0.
        box = (torch.tensor(box_px, device=self.device) + 0.5) / torch.tensor([width, height] * 2, device=self.device)
        found = self._detect(encoded, NO_TEXT, box)
        fit = found.probability * box_iou(found.box, box[None])[:, 0]
        best = int((fit if fit.any() else found.probability).argmax())
        return Answer(_resized(found.mask_logits[best, None], encoded)[0], float(found.probability[best]))

    def _object_at(self, encoded: dict[str, Any], *, points_px=None, labels=None, box_px=None) -> Answer:
        # The package adds half a pixel of its own resolution, so what it is given are centres as in a prompt.
        masks, scores, _ = self.model.predict_inst(
            encoded, point_coords=None if points_px is None else np.array(points_px),
            point_labels=None if labels is None else np.array(labels), box=None if box_px is None else np.array(box_px),
            multimask_output=points_px is not None and len(points_px) == 1,
        )
        best = int(scores.argmax())
        return Answer(masks[best] > 0, float(scores[best]))

    def _detect(self, encoded: dict[str, Any], text: str, box: torch.Tensor | None = None) -> Detections:
        """What `Sam3Processor` computes, before it drops what is below its threshold; box: (4,) in [0, 1]."""
        geometry = self.model._get_dummy_prompt()
        if box is not None:
            centre = box_convert(box, "xyxy", "cxcywh").float().view(1, 1, 4)
            geometry.append_boxes(centre, torch.ones(1, 1, dtype=torch.bool, device=self.device))
        found = self.model.forward_grounding(
            backbone_out={**encoded["backbone_out"], **self._encode_text(text)},
            find_input=self._processor.find_stage, geometric_prompt=geometry, find_target=None,
        )
        probability = found["pred_logits"].float().sigmoid() * found["presence_logit_dec"].float().sigmoid()[:, None]
        return Detections(probability[0, :, 0], found["pred_boxes_xyxy"][0].float(), found["pred_masks"][0].float())

    def _encode_text(self, text: str) -> dict[str, torch.Tensor]:
        if text not in self._texts:
            self._texts[text] = self.model.backbone.forward_text([text], device=self.device)
        return self._texts[text]

    @contextlib.contextmanager
    def _inference(self):
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            yield


def _describe(model: torch.nn.Module, is_random: bool) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    weights = RANDOM if is_random else str(model.load_report)
    return f"SAM 3 image model, {parameters:.0f} M parameters, {model.image_size} px; {weights}"


def _frame_size(encoded: dict[str, Any]) -> tuple[int, int]:
    return encoded["original_height"], encoded["original_width"]


def _resized(mask_logits: torch.Tensor, encoded: dict[str, Any]) -> np.ndarray:
    """Masks, bool (N, H, W) of the frame, of logits (N, h, w)."""
    logits = torch.nn.functional.interpolate(mask_logits[:, None], _frame_size(encoded), mode="bilinear",
                                             align_corners=False)
    return (logits[:, 0].sigmoid() > 0.5).cpu().numpy()


def build_sam3_contestant(
    checkpoint: str | Path | None = None, *, random_init: bool = False, device: torch.device = torch.device("cpu"),
    amp: str | None = None, size: str = "full", image_size: int | None = None, box_means: str = "exemplar",
) -> Sam3Contestant:
    """SAM 3 with the weights of `checkpoint` on `device`.

    amp: "bf16" or "off"; without it bf16 on a GPU that multiplies it, as the package runs there, and float32 on a CPU.
    size, image_size and errors: as `models.sam3_image_model.build_sam3_image_model`.
    """
    model = build_sam3_image_model(checkpoint, random_init=random_init, size=size, image_size=image_size)
    amp = "off" if amp is None and device.type == "cpu" else choose_amp(amp, device)[0]
    return Sam3Contestant(model, device=device, amp=amp == "bf16", is_random=random_init, box_means=box_means)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m contest.sam3", description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("picture", type=Path, metavar="PICTURE", help="PNG, JPEG, DICOM or .npy cine")
    add("--frame", type=non_negative_int, default=0, metavar="N", help="which frame of a cine, from 0")
    add("--out", type=Path, required=True, metavar="OUT.png", default=argparse.SUPPRESS,
        help="where the frame is drawn with each answer, one panel a prompt")
    add = parser.add_argument_group("prompts, at least one; each is answered alone").add_argument
    add("--text", default=None, help='what to look for, such as "coronary artery"')
    add("--box", type=float, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), default=None, help="a box in px of the frame")
    add("--point", type=float, nargs=2, metavar=("X", "Y"), action="append", default=[],
        help="a point on what is wanted, px of the frame; repeatable, all are one prompt")
    add("--box-means", choices=BOX_MEANINGS, default="exemplar",
        help="exemplar: an example of what to look for, as the image model takes boxes; object: the thing in the box, "
             "answered by the decoder of SAM 1 and 2 that is in SAM 3")
    add = parser.add_argument_group("model").add_argument
    add("--sam3-checkpoint", type=Path, default=None, help="SAM 3's released weights (sam3.pt)")
    add("--random-init", action=argparse.BooleanOptionalAction, default=False,
        help="random weights instead, to see what it costs; what is answered means nothing")
    add("--size", choices=tuple(ARCHITECTURES), default="full",
        help="tiny: the same classes, few and narrow layers, only to try the command with --random-init")
    add("--image-size", type=int, default=None,
        help="side of the square that the model sees, a multiple of 336; without it 1008, or 336 for tiny")
    add("--amp", choices=("bf16", "off"), default=None,
        help="mixed precision; without it bf16 on a GPU that multiplies it, off on a CPU")
    add_device_argument(parser)
    return parser


def read_prompts(args: argparse.Namespace) -> dict[str, Prompt]:
    """The prompts of the command line, each by a short name."""
    prompts = {}
    if args.text is not None:
        prompts[f'text "{args.text}"'] = Prompt(text=args.text)
    if args.box is not None:
        prompts["box"] = Prompt(box_px=tuple(args.box))
    if args.point:
        prompts["points"] = Prompt(points_px=tuple(map(tuple, args.point)), point_labels=(1,) * len(args.point))
    return prompts


def run(args: argparse.Namespace, prompts: dict[str, Prompt]) -> None:
    frame = open_frames(args.picture).read(args.frame)
    device = choose_device(args.device)
    with PeakMemory() as memory:
        contestant = _told("building", lambda: build_sam3_contestant(
            args.sam3_checkpoint, random_init=args.random_init, device=device, amp=args.amp, size=args.size,
            image_size=args.image_size, box_means=args.box_means,
        ))
        print(f"{contestant.about}; {_device_name(device)}, {'bf16' if contestant.amp else 'float32'}", flush=True)
        encoded = _told("image encoder", lambda: contestant.encode(frame))
        answers = {}
        for name, prompt in prompts.items():
            answer = answers[name] = _told(name, lambda: contestant.answer(encoded, prompt))
            print(f"  score {answer.score:.3f}, {100 * answer.mask.mean():.2f} % of the frame", flush=True)
        print(f"peak memory: {memory.peak_mib() / 1024:.2f} GiB{' of the GPU' if device.type == 'cuda' else ''}")
    draw(args.out, frame, prompts, answers, title=contestant.name)
    print(f"written: {args.out}")
    if contestant.is_random:
        print(f"NOT A RESULT: {RANDOM}.")


def draw(path: Path, frame: np.ndarray, prompts: dict[str, Prompt], answers: dict[str, Answer], *, title: str) -> None:
    """Write the frame and beside it each answer with its prompt."""
    panels = [draw_prompt(mask_overlay(frame, answers[name].mask), prompt) for name, prompt in prompts.items()]
    scores = [f"score {answers[name].score:.2f}" for name in prompts]
    if "random" in title:
        title, scores = f"{title}\nNOT A RESULT", [f"{score}, {RANDOM}" for score in scores]
    save_gallery(path, [[frame, *panels]], ["frame", *prompts], [""], title=title, captions=[["", *scores]],
                 legend=None, cell_inches=4.0)


def _told(part: str, work):
    """The result of `work`, whose seconds are printed."""
    result, seconds = timed(work)
    print(f"{part}: {seconds:.1f} s", flush=True)
    return result


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    prompts = read_prompts(args)
    if not prompts:
        parser.error("nothing was asked: give --text, --box or --point")
    with clean_exit(also=(ValueError,)):
        run(args, prompts)


if __name__ == "__main__":
    main()
