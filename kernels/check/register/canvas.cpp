#include "canvas.cu"
#include "shim/register.h"

KERNEL(noise_field_f32)
KERNEL(diffuse_f32)
KERNEL(canvas_step_f32)
KERNEL(gather_regions_bf16)
KERNEL(gather_regions_f16)
KERNEL(gather_regions_f32)
KERNEL(add_regions_bf16)
KERNEL(add_regions_f16)
KERNEL(add_regions_f32)
KERNEL(find_non_finite_bf16)
KERNEL(find_non_finite_f16)
KERNEL(find_non_finite_f32)
