"""The figures of the model card: every held-out picture enlarged with sample.py and measured with evaluate.py."""
import argparse
import json
import pathlib

import numpy as np
import torch
from PIL import Image

import evaluate
import sample


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heldout", type=pathlib.Path, required=True, help="what heldout.py wrote")
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "mini")
    parser.add_argument("--out", type=pathlib.Path, help="keep the enlarged pictures here")
    parser.add_argument("--gsp", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = sample.Model(args.model)
    rows = []
    for path in sorted(args.heldout.glob("*_low.png")):
        name = path.stem.removesuffix("_low")
        truth = Image.open(args.heldout / f"{name}.png").convert("RGB")
        low = Image.open(path)
        output = sample.upscale(model, low, truth.size, args.seed, gsp=args.gsp)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            output.save(args.out / f"{name}.png")
        figures = evaluate.measure(truth, output, truth.width / low.width)
        rows.append(figures)
        print(json.dumps({"photo": name, **{k: round(v, 3) for k, v in figures.items()}}), flush=True)
    print(json.dumps({"photo": "mean", **{k: round(float(np.mean([r[k] for r in rows])), 3) for k in rows[0]}}))


if __name__ == "__main__":
    main()
