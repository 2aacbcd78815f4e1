#include "attention.cu"
#include "shim/register.h"

KERNEL(attention_40_bf16)
KERNEL(attention_40_f16)
KERNEL(attention_64_bf16)
KERNEL(attention_64_f16)
KERNEL(attention_72_bf16)
KERNEL(attention_72_f16)
KERNEL(attention_80_bf16)
KERNEL(attention_80_f16)
KERNEL(attention_128_bf16)
KERNEL(attention_128_f16)
KERNEL(attention_160_bf16)
KERNEL(attention_160_f16)
