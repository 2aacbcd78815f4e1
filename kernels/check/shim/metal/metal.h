// What a Metal kernel sees when it is compiled as C++: with METAL_CHECK its types and address spaces as Metal
// checks them, for clang and without running; otherwise what runs it, a fiber for each thread.
#pragma once

using uint = unsigned int;
using ushort = unsigned short;
using ulong = unsigned long;
using half = _Float16;

#ifdef METAL_CHECK
#include "shim/metal/check.h"
#else
#include "shim/metal/run.h"
#endif
