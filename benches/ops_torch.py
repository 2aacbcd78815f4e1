"""The table of benches/ops.rs for PyTorch (f32, channels-last), to be compared line by line.

    python benches/ops_torch.py [FILTER] [--threads N]
"""

import argparse
import time

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

TIME = 0.7


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("filter", nargs="?", default="")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    def run(name, flops, size, operation):
        if options.filter not in name:
            return
        operation()
        cpu, begin, best, repeats = time.process_time(), time.perf_counter(), 1e9, 0
        while repeats < 3 or time.perf_counter() - begin < TIME:
            start = time.perf_counter()
            operation()
            best = min(best, time.perf_counter() - start)
            repeats += 1
        cpu = (time.process_time() - cpu) / repeats
        rate, unit = (flops, "GFLOP/s") if flops else (size, "GB/s")
        print(f"{name:<34} {best * 1e3:>9.3f} ms {rate / best / 1e9:>8.1f} {unit} {cpu * 1e3:>9.3f} CPU-ms")

    def conv(cin, cout, side, stride):
        weight = torch.randn(cout, cin, 3, 3).to(memory_format=torch.channels_last)
        bias = torch.randn(cout)
        x = torch.randn(1, cin, side, side).to(memory_format=torch.channels_last)
        run(f"conv3x3 {cin}->{cout} {side}x{side} /{stride}",
            2 * 9 * cin * cout * (side // stride) ** 2, 0,
            lambda: F.conv2d(x, weight, bias, stride=stride, padding=1))

    def linear(rows, cin, cout):
        x, weight, bias = torch.randn(1, rows, cin), torch.randn(cout, cin), torch.randn(cout)
        run(f"linear {rows} x {cin}->{cout}", 2 * rows * cin * cout, 0,
            lambda: F.linear(x, weight, bias))

    def attention(queries, keys, heads):
        def split(n):
            return torch.randn(1, n, heads, 64).transpose(1, 2)
        q, k, v = split(queries), split(keys), split(keys)
        run(f"attention {queries} x {keys} heads {heads}", 4 * queries * keys * 64 * heads, 0,
            lambda: F.scaled_dot_product_attention(q, k, v))

    with torch.inference_mode():
        for shape in [(4, 128, 64, 1), (128, 128, 64, 1), (128, 128, 64, 2), (256, 256, 32, 1),
                      (512, 256, 32, 1), (384, 384, 16, 1), (320, 320, 64, 1), (128, 4, 64, 1)]:
            conv(*shape)
        for shape in [(1024, 256, 2048), (1024, 1024, 256), (256, 384, 3072), (77, 768, 384)]:
            linear(*shape)
        for shape in [(1024, 1024, 4), (4096, 4096, 5), (4096, 77, 5)]:
            attention(*shape)
        x = torch.randn(1, 128, 64, 64).to(memory_format=torch.channels_last)
        size, ones = 4 * x.numel(), torch.ones(128)
        run("group_norm+silu 64x64x128", 0, 2 * size,
            lambda: F.silu(F.group_norm(x, 32, ones, ones)))
        tokens = torch.randn(1, 1024, 256)
        run("layer_norm 1024x256", 0, 8 * tokens.numel(), lambda: F.layer_norm(tokens, (256,)))
        gated = torch.randn(1, 1024, 2048)

        def geglu():
            value, gate = gated.chunk(2, dim=-1)
            return value * F.gelu(gate)
        run("geglu 1024x2048", 0, 6 * gated.numel(), geglu)
        run("upsample 64x64x128", 0, 5 * size, lambda: F.interpolate(x, scale_factor=2))
        run("add 64x64x128", 0, 3 * size, lambda: x + x)
        run("cat 64x64x(128+128)", 0, 4 * size, lambda: torch.cat([x, x], 1))

        cross_down, cross_up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
        unet = UNet2DConditionModel(
            in_channels=8, block_out_channels=[96, 192, 384],
            down_block_types=["DownBlock2D", cross_down, cross_down],
            up_block_types=[cross_up, cross_up, "UpBlock2D"],
            layers_per_block=1, transformer_layers_per_block=[1, 1, 2],
            attention_head_dim=[2, 4, 8], cross_attention_dim=256, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=320,
        ).eval().to(memory_format=torch.channels_last)
        added = dict(text_embeds=torch.randn(1, 128), time_ids=torch.zeros(1, 6))
        sample = torch.randn(1, 8, 64, 64).to(memory_format=torch.channels_last)
        context = torch.randn(1, 77, 256)
        run("unet 64x64", 45_884_080_128, 0,
            lambda: unet(sample, 499, context, added_cond_kwargs=added))


if __name__ == "__main__":
    main()
