#include "crop_resize.cu"
#include "shim/register.h"

KERNEL(blend_prior_bf16)
KERNEL(blend_prior_f16)
KERNEL(blend_prior_f32)
