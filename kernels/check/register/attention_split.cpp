#include "attention_split.cu"
#include "shim/register.h"

KERNEL(attention_split_64_bf16)
KERNEL(attention_split_64_f16)
KERNEL(attention_split_80_bf16)
KERNEL(attention_split_80_f16)
KERNEL(attention_split_128_bf16)
KERNEL(attention_split_128_f16)
KERNEL(attention_combine_bf16)
KERNEL(attention_combine_f16)
