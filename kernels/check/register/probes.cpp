#include "probes.cu"
#include "shim/register.h"
KERNEL(probe_reverse)
KERNEL(probe_warp)
KERNEL(probe_product_bf16)
KERNEL(probe_product_f16)
KERNEL(probe_rounding)
KERNEL(probe_mistake)
