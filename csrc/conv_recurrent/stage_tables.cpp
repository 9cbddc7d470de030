#include "conv_recurrent/stage_tables.h"

#include <algorithm>
#include <vector>

#include "common/library.h"
#include "kernels.h"

namespace frcn {
namespace {

// Python's lock is held wherever this is read or written.
std::vector<const StageTable*>& loaded_tables() {
  static std::vector<const StageTable*> tables;
  return tables;
}

const StageEntry* find_in(const StageTable& table, const std::string& fingerprint, int stage, bool backward,
                          DataType type) {
  for (int k = 0; k < table.count; ++k) {
    const auto& e = table.entries[k];
    if (fingerprint == e.fingerprint && e.stage == stage && e.backward == backward && e.type == type) return &e;
  }
  return nullptr;
}

}  // namespace

const StageEntry* find_stage(const std::string& isa, const std::string& fingerprint, int stage, bool backward,
                             DataType type) {
  const auto* entry = find_in(*find_kernels(isa).stages, fingerprint, stage, backward, type);
  for (const StageTable* table : loaded_tables())
    if (!entry && isa == table->isa) entry = find_in(*table, fingerprint, stage, backward, type);
  return entry;
}

void register_stages(const std::string& path) {
  const auto problem_of = [](const StageLibrary& library) -> std::string {
    if (library.abi != kStageAbi)
      return "expected stages of ABI " + std::to_string(kStageAbi) + ", got " + std::to_string(library.abi);
    const std::string isa = library.table->isa;
    const auto usable = usable_isas();
    const bool is_usable = std::find(usable.begin(), usable.end(), isa) != usable.end();
    return is_usable ? "" : "its instruction set " + isa + " is not usable here";
  };
  loaded_tables().push_back(load_library<StageLibrary>(path, "stages", "fastrcn_stage_library", problem_of).table);
}

}  // namespace frcn
