"""Train the demo model: a small Segmenter on generated scenes, on the processor.

``python -m demo.train`` repeats the shipped run; ``--resume`` goes on after an interruption.
Most steps see small windows of many scenes, the last ones whole scenes, always the same number of
pixels. A window keeps its place in the position embeddings, so that distances mean the same in
all of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo.evaluate import HELD_OUT_SEEDS, figures, held_out_figures
from demo.model import PATCH, SIZE, demo_config, frequency_filters
from demo.photographs import CLASSES, IGNORE
from demo.scenes import photograph_part, scene
from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation.metrics import IGNORE as NOT_LABELLED
from iseg_tvm.files import atomic_write
from iseg_tvm.models.checkpoint import save_checkpoint
from iseg_tvm.models.segmenter import Segmenter, build_segmenter
from iseg_tvm.models.windows import window_scores
from iseg_tvm.training import data
from iseg_tvm.training.loop import learning_rate

HERE = Path(__file__).parent
# The mask decoder's LayerNorm bounds its scores: sharpened, they can say that a class is certain.
SHARPNESS = 3.0
_LOG = logging.getLogger("demo.train")


def _pool_entry(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training picture `index`: every sixth is a part of a photograph as it is."""
    size = (SIZE, SIZE)
    return photograph_part(index, size) if index % 6 == 5 else scene("train", index, size)


def scene_pool(count: int, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Compose the training scenes, or map those of an earlier run from the work folder.

    Parameters
    ----------
    count : int
        Number of scenes.
    work : Path
        Folder of the cache.

    Returns
    -------
    tuple of numpy.ndarray
        Images of shape (count, 256, 256, 3) and class maps of shape (count, 256, 256), uint8.
    """
    files = [work / f"{name}-{count}.npy" for name in ("images", "labels")]
    if not all(file.is_file() for file in files):
        _LOG.info("composing %d scenes", count)
        images = np.empty((count, SIZE, SIZE, 3), np.uint8)
        labels = np.empty((count, SIZE, SIZE), np.uint8)
        with multiprocessing.get_context("spawn").Pool(2) as workers:
            entries = workers.imap(_pool_entry, range(count), chunksize=8)
            for index, (image, classes) in enumerate(entries):
                images[index], labels[index] = image, classes
        for file, array in zip(files, (images, labels), strict=True):
            with atomic_write(file) as stream:
                np.save(stream, array)
    images, labels = (np.load(file, mmap_mode="r") for file in files)
    return images, labels


def draw_batch(
    pool: tuple[np.ndarray, np.ndarray], rng: np.random.Generator, batch: int, side: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Cut windows at one common place out of random scenes, mirrored and with new light.

    Returns
    -------
    tuple
        Images (batch, side, side, 3), uint8; class maps (batch, side, side), uint8; row and
        column of the windows in patches.
    """
    top, left = (int(v) for v in rng.integers(0, (SIZE - side) // PATCH + 1, 2))
    rows, columns = slice(top * PATCH, top * PATCH + side), slice(left * PATCH, left * PATCH + side)
    # Mirror the scene before the window is cut: the window's place must stay its true place.
    images, labels = [], []
    for index in rng.integers(0, len(pool[0]), batch):
        step = -1 if rng.random() < 0.5 else 1
        image = pool[0][index][:, ::step][rows, columns].astype(np.float32)
        gain = rng.uniform(0.7, 1.3) * rng.uniform(0.95, 1.05, 3).astype(np.float32)
        centre = rng.uniform(90, 160)
        image = (image - centre) * np.float32(rng.uniform(0.8, 1.2)) + np.float32(centre)
        images.append(np.clip(image * gain, 0, 255).astype(np.uint8))
        labels.append(pool[1][index][:, ::step][rows, columns])
    return np.stack(images), np.stack(labels), (top, left)


def patch_shares(labels: np.ndarray) -> Tensor:
    """Return the share of each class in each patch, shape (B, classes, rows, columns), float32.

    Unlabelled pixels belong to no class, so that the shares of a patch sum to 1 or less.
    """
    targets = np.where(labels == IGNORE, NOT_LABELLED, labels.astype(np.int16))
    return data.patch_shares(targets, len(CLASSES), PATCH)


def _optimizer(model: Segmenter, decay: float) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1 and p.shape[0] > 1]
    others = [p for p in model.parameters() if p.ndim <= 1 or p.shape[0] == 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))


def parse_stages(text: str) -> list[tuple[int, float]]:
    """Parse window sides and the shares of the steps up to which they last.

    Parameters
    ----------
    text : str
        For example ``"64:0.6,128:0.88,256:1"``.

    Returns
    -------
    list of tuple
        Side in pixels and share, by growing share; the last share is 1.

    Raises
    ------
    argparse.ArgumentTypeError
        Another form, a side that is no multiple of the patch or larger than a scene.
    """
    try:
        pairs = [stage.split(":") for stage in text.split(",")]
        stages = [(int(side), float(share)) for side, share in pairs]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not SIDE:SHARE,SIDE:SHARE,...") from error
    shares = [share for _, share in stages]
    if shares != sorted(shares) or shares[-1] != 1:
        raise argparse.ArgumentTypeError(f"the shares of {text!r} do not grow to 1")
    for side, _ in stages:
        if side % PATCH or not 0 < side <= SIZE:
            raise argparse.ArgumentTypeError(f"{side} is no multiple of {PATCH} up to {SIZE}")
    return stages


def train(args: argparse.Namespace) -> Segmenter:
    """Train, or go on with, one model; returns it in evaluation mode."""
    torch.manual_seed(args.seed)
    pool = scene_pool(args.scenes, args.work)
    model = build_segmenter(demo_config(), seed=args.seed)
    model.set_fused_attention(True)
    with torch.no_grad():
        first = model.encoder.patch_embed.proj
        weights, biases = frequency_filters(pool[0][:64], first.out_channels)
        first.weight.copy_(weights)
        first.bias.copy_(biases)
    optimizer = _optimizer(model, 0.05)
    state_file, start, spent = args.work / "state.pt", 0, 0.0
    if args.resume:
        if not state_file.is_file():
            raise IsegError(f"{state_file} is missing", hint="start without --resume")
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, spent = state["step"], state["seconds"]
    model.train()
    began, losses = time.monotonic() - spent, []
    for step in range(start, args.steps):
        # A generator a step: a resumed run sees the very batches that it would have seen.
        rng = np.random.default_rng([args.seed, step])
        side = next(side for side, end in args.stages if step < end * args.steps)
        batch = max(1, args.pixels // side**2)
        images, labels, place = draw_batch(pool, rng, batch, side)
        shares = patch_shares(labels)
        scores = SHARPNESS * window_scores(model, images, place)
        loss = -(shares * scores.log_softmax(dim=1)).sum() / shares.sum()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds = time.monotonic() - began
        if (step + 1) % 25 == 0:
            _LOG.info(
                "step %d/%d side %d loss %.4f rate %.2e %.0f s",
                *(step + 1, args.steps, side, np.mean(losses)),
                *(learning_rate(step, args.steps, args.rate), seconds),
            )
            losses = []
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            with atomic_write(state_file) as stream:
                torch.save({**state, "step": step + 1, "seconds": seconds}, stream)
            found = held_out_figures(model, seeds=HELD_OUT_SEEDS[:8])
            model.train()
            _LOG.info("step %d held-out mIoU on 8 scenes %.4f", step + 1, found["miou_nearest"])
    args.seconds = time.monotonic() - began
    return model.eval()


def main() -> int:
    """Train the demo model; write checkpoint, figures and log."""
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps")
    parser.add_argument("--pixels", type=int, default=131072, help="pixels a step")
    parser.add_argument(
        "--stages",
        type=parse_stages,
        default="64:0.6,128:0.88,256:1",
        help="side of the windows, and share of the steps up to which it lasts",
    )
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--scenes", type=int, default=3000, help="size of the training pool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the work folder's state")
    parser.add_argument("--work", type=Path, default=Path("out/demo"), help="cache and state")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the results")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.output.mkdir(parents=True, exist_ok=True)
    log = logging.FileHandler(args.output / "train.log", mode="a" if args.resume else "w")
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[log, logging.StreamHandler(sys.stderr)],
    )
    torch.set_num_threads(args.threads)
    try:
        model = train(args)
        save_checkpoint(model, args.output / "checkpoint")
        record = {
            "seed": args.seed, "steps": args.steps,
            "stages": args.stages, "pixels": args.pixels, "rate": args.rate, "scenes": args.scenes,
            "training_seconds": round(args.seconds), "threads": args.threads,
            "parameters": sum(p.numel() for p in model.parameters()),
            "versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "numpy": np.__version__},
            **figures(model),
        }  # fmt: skip
        with atomic_write(args.output / "figures.json") as stream:
            stream.write((json.dumps(record, indent=2) + "\n").encode())
    except IsegError as error:
        sys.stderr.write(f"error: {error.message}\n" + f"hint: {error.hint}\n" * bool(error.hint))
        return 2
    _LOG.info("held-out mIoU %.4f", record["held_out"]["miou_nearest"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
