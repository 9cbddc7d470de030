// A stage's buffers by pixel, and the emitted stages themselves. Included once per instruction set or device.
#pragma once

#include "common/math.h"
#include "common/storage.h"
#include "conv_recurrent/stage.h"

namespace FRCN_ISA {

using frcn::StageArgs;

template <class T>
FRCN_HD T* row(const StageArgs& a, int argument, int64_t pixel) {
  return reinterpret_cast<T*>(a.data[argument]) + pixel * a.pitch[argument];
}

#include "conv_recurrent_stages.h"

}  // namespace FRCN_ISA
