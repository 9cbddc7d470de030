// Libraries that are loaded while the process runs.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace frcn {

// What a library exports as `name`; it stays loaded. `what`: what it should be. `problem_of` tells of what it exports
// why it cannot be used, or gives an empty text. Throws std::runtime_error where it does not load or cannot be used.
template <class Exported, class Problem>
const Exported& load_library(const std::string& path, const std::string& what, const char* name,
                             const Problem& problem_of) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error("fastrcn: a library of " + what + " does not load: " + dlerror());
  const auto* exported = static_cast<const Exported*>(dlsym(handle, name));
  const std::string problem =
      exported ? problem_of(*exported) : "expected a library of " + what + ", got one without " + name;
  if (problem.empty()) return *exported;
  dlclose(handle);
  throw std::runtime_error("fastrcn: " + path + ": " + problem);
}

}  // namespace frcn
