"""LLaVA-1.6-Mistral-7B with random weights in transformers (f16, on a GPU): 49 regions of 336² and 60 tokens each, in
one batch and one by one. The same work as `cargo bench --features cuda --bench llava -- --gpu`, to be run beside it.

    python benches/llava_torch.py [REGIONS TOKENS]         # needs torch and transformers
"""

import sys
import time

import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

SIDE = 336
CONFIG = LlavaNextConfig(
    vision_config={
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": SIDE, "patch_size": 14, "projection_dim": 768,
    },
    text_config={
        "model_type": "mistral", "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 1_000_000.0,
        "max_position_embeddings": 32768, "sliding_window": None,
    },
    image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    image_token_index=32000,
)
# A square picture is seen whole and in a grid of two tiles, whose padding goes: 24 x 24 patches each, in the grid with a
# newline after each row.
TILES, ROWS = 3, 24
FEATURES = ROWS * ROWS + ROWS * (ROWS + 1)


def main():
    regions, tokens = (int(text) for text in sys.argv[1:3]) if len(sys.argv) > 2 else (49, 60)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float16)
    with torch.device("cuda"):
        model = LlavaNextForConditionalGeneration(CONFIG).eval()

    def generate(count):
        text = torch.full((count, 40), 1000)
        ids = torch.cat([text[:, :5], torch.full((count, FEATURES), 32000), text[:, 5:]], 1).cuda()
        pixels = torch.randn((count, TILES, 3, SIDE, SIDE), device="cuda", dtype=torch.float16)
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels,
            image_sizes=torch.tensor([[SIDE, SIDE]] * count), do_sample=False,
            min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0,
        )
        torch.cuda.synchronize()
        return time.perf_counter() - start

    generate(1)
    together = generate(regions)
    peak = torch.cuda.max_memory_allocated() / 2**30
    single = sum(generate(1) for _ in range(regions))
    print("| transformers | one by one s | together s | tokens/s | ratio | peak memory |\n|---|---|---|---|---|---|")
    print(f"| f16 | {single:.2f} | {together:.2f} | {regions * tokens / together:.0f} | {single / together:.1f} | {peak:.1f} GiB |")


if __name__ == "__main__":
    main()
