#include "conv_recurrent/stage_tables.h"

#include <dlfcn.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

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
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error(std::string("fastrcn: a library of stages does not load: ") + dlerror());
  const auto refuse = [&](const std::string& reason) {
    dlclose(handle);
    throw std::runtime_error("fastrcn: " + path + ": " + reason);
  };
  const auto* library = static_cast<const StageLibrary*>(dlsym(handle, "fastrcn_stage_library"));
  if (!library) refuse("expected a library of stages, got one without fastrcn_stage_library");
  if (library->abi != kStageAbi)
    refuse("expected stages of ABI " + std::to_string(kStageAbi) + ", got " + std::to_string(library->abi));
  const std::string isa = library->table->isa;
  const auto usable = usable_isas();
  if (std::find(usable.begin(), usable.end(), isa) == usable.end())
    refuse("its instruction set " + isa + " is not usable here");
  loaded_tables().push_back(library->table);
}

}  // namespace frcn
