#include "conv_recurrent/kernel_tables.h"

#include <stdexcept>

#include "common/library.h"

namespace frcn {

int KernelTables::find(const std::string& fingerprint, int stage, bool backward) const {
  int before = 0;
  for (const KernelTable& table : tables_) {
    const StageKernels stages = table.stages(DataType::float32);
    const int number = find_stage_kernel(stages, fingerprint, stage, backward);
    if (number >= 0) return before + number;
    before += stages.count;
  }
  return -1;
}

KernelsOfStage KernelTables::at(int number, DataType type) const {
  int own = number;
  for (const KernelTable& table : tables_) {
    const StageKernels stages = table.stages(type);
    if (own >= 0 && own < stages.count) return {stages, table.steps(type), own};
    own -= stages.count;
  }
  throw std::invalid_argument("fastrcn: there is no stage kernel " + std::to_string(number));
}

void KernelTables::load(const std::string& path) {
  const auto problem_of = [](const KernelLibrary& library) -> std::string {
    if (library.abi != kKernelAbi)
      return "expected kernels of ABI " + std::to_string(kKernelAbi) + ", got " + std::to_string(library.abi);
    if (library.text_size != sizeof(std::string)) return "it was compiled with another C++ library than the extension";
    return "";
  };
  tables_.push_back(load_library<KernelLibrary>(path, "kernels", "fastrcn_kernel_library", problem_of).table);
}

}  // namespace frcn
