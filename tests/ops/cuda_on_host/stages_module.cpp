// The Python module of stages.cpp, in a file of its own: it is compiled without the sanitizers, which take pybind11's
// templates long.
#include "stages.h"

#include "conv_recurrent/stage_bindings.h"

PYBIND11_MODULE(stages, m) {
  frcn::bind_stages(m, kernels_of);
  m.def("launches", [] { return launches(); }, "(addends, sums that are written, stream) of each launch.");
  m.def("forget_launches", [] { launches().clear(); });
  m.def("fail_with", [](const std::string& text) { failure() = text; }, "Let launches fail; not with an empty text.");
}
