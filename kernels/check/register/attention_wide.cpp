#include "attention_wide.cu"
#include "shim/register.h"

KERNEL(attention_512_bf16)
KERNEL(attention_512_f16)
