"""PyTorch's forms of the operations of `benches/ops.rs`, for the scripts that compare with them. It needs torch alone."""

import torch
import torch.nn.functional as F


def torch_operation(case, device="cpu"):
    """PyTorch's form of a case, pictures channels-last, as a closure. The CPU computes norms and sums in f32 whatever the precision
    of products is; a GPU has everything in the case's own type."""
    on_cpu = device == "cpu"
    products = torch.bfloat16 if case["precision"] == "bf16" else torch.float32
    others = torch.float32
    if not on_cpu:
        products = others = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[case["dtype"]]
    batch = case["batch"]

    def random(*shape, dtype=products):
        return torch.randn(*shape, device=device).to(dtype)

    def picture(channels, side, dtype=products, samples=batch):
        return random(samples, channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)

    def ones(channels):
        return torch.ones(channels, device=device, dtype=others)

    def split(tokens):
        """Heads as diffusers has them: a view of tokens."""
        width = case["heads"] * case["head_width"]
        return random(batch, tokens, width).view(batch, tokens, case["heads"], -1).transpose(1, 2)

    match case["operation"]:
        case "conv":
            kernel = case["kernel"]
            weight = random(case["output"], case["input"], kernel, kernel).to(memory_format=torch.channels_last)
            x, bias = picture(case["input"], case["side"]), random(case["output"])
            if case["upsample"]:
                return lambda: F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=kernel // 2)
            return lambda: F.conv2d(x, weight, bias, stride=case["stride"], padding=kernel // 2)
        case "linear":
            x, bias = random(batch, case["rows"], case["input"]), random(case["output"])
            weight = random(case["output"], case["input"])
            return lambda: F.linear(x, weight, bias)
        case "attention":
            q, k, v = split(case["queries"]), split(case["keys"]), split(case["keys"])
            return lambda: F.scaled_dot_product_attention(q, k, v)
        case "group_norm_silu":
            x, weight = picture(case["channels"], case["side"], dtype=others), ones(case["channels"])
            return lambda: F.silu(F.group_norm(x, 32, weight, weight))
        case "layer_norm":
            x, weight = random(batch, case["rows"], case["channels"], dtype=others), ones(case["channels"])
            return lambda: F.layer_norm(x, weight.shape, weight, weight)
        case "geglu":
            x = random(batch, case["rows"], 2 * case["channels"], dtype=others)

            def geglu():
                value, gate = x.chunk(2, dim=-1)
                return value * F.gelu(gate)
            return geglu
        case "upsample":
            x = picture(case["channels"], case["side"])
            return lambda: F.interpolate(x, scale_factor=2)
        case "crop_resize":
            x = picture(case["channels"], case["side"], samples=1)
            theta = torch.tensor([[[0.5, 0, 0], [0, 0.5, 0]]], device=device, dtype=x.dtype)
            grid = F.affine_grid(theta, x.shape, align_corners=False)
            return lambda: F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        case "add":
            a, b = picture(case["channels"], case["side"]), picture(case["channels"], case["side"])
            return lambda: a + b
        case "concatenate":
            a, b = picture(case["channels"], case["side"]), picture(case["channels"], case["side"])
            return lambda: torch.cat([a, b], 1)
    raise SystemExit(f"no PyTorch form of {case}")
