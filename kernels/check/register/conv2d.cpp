#include "conv2d.cu"
#include "shim/register.h"
KERNEL(conv2d_large_bf16)
KERNEL(conv2d_small_bf16)
KERNEL(conv2d_any_inputs_bf16)
KERNEL(conv2d_any_outputs_bf16)
KERNEL(conv2d_any_bf16)
KERNEL(conv2d_sum_bf16)
KERNEL(conv2d_large_f16)
KERNEL(conv2d_small_f16)
KERNEL(conv2d_any_inputs_f16)
KERNEL(conv2d_any_outputs_f16)
KERNEL(conv2d_any_f16)
KERNEL(conv2d_sum_f16)
