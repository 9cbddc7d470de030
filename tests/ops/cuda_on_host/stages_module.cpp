// The Python module of stages.cpp, in a file of its own: it is compiled without the sanitizers, which take pybind11's
// templates long.
#include "stages.h"

#include "conv_recurrent/stage_bindings.h"

PYBIND11_MODULE(stages, m) {
  frcn::bind_stages(m, {kernels_of, steps_of}, normalize_of);
  m.def("launches", [] { return launches(); }, "(addends, sums that are written, stream) of each launch.");
  m.def("steps", [] { return host_steps().launches; }, "(tile, slots) of each launch of a convolution with its stage.");
  m.def("normalizations", [] { return normalizations(); }, "(images, slices, stream) of each kernel that normalises.");
  m.def("forget_launches", [] {
    launches().clear();
    normalizations().clear();
    host_steps().launches.clear();
    host_steps().walks.clear();
  });
  m.def(
      "walks", [] { return host_steps().walks; },
      "(tile, blocks, whether each kernel's weights stay, times) of each walk.");
  m.def(
      "set_walks",
      [](int64_t room, int64_t blocks, unsigned seed) {
        host_steps().most_room = room;
        host_steps().most_blocks = blocks;
        host_steps().seed = seed;
      },
      "How many bytes a block may have, how many blocks run at once, and what draws the order in which they go on.");
  m.def(
      "set_steps",
      [](int processors, bool early) {
        host_steps().processors = processors;
        host_steps().copies = early ? FRCN_ISA::Copies::early : FRCN_ISA::Copies::late;
      },
      "How many processors there seem to be, and whether copies are done at once or when they are waited for.");
  m.def(
      "set_products", [](bool warpgroups) { host_steps().warpgroups = warpgroups; },
      "Whether products are warpgroups' or warps'.");
  m.def("fail_with", [](const std::string& text) { failure() = text; }, "Let launches fail; not with an empty text.");
}
