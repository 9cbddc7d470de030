// Which kernels of stages there are on a GPU: those of the built-in cells, and those of libraries that were loaded
// since.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "conv_recurrent/stage_kernels.h"
#include "conv_recurrent/step_kernels.h"

namespace frcn {

// The kernels of some cells, by data type.
struct KernelTable {
  StageKernels (*stages)(DataType);
  StepKernels (*steps)(DataType);
};

constexpr int kKernelAbi = 1;  // to be raised with every change to what a table leads to

// What a library of kernels that was compiled apart from the extension exports, as `fastrcn_kernel_library`.
struct KernelLibrary {
  int abi;
  std::size_t text_size;  // of a std::string, which kernels give back: C++ libraries differ in it
  KernelTable table;
};

// A stage's kernels for one data type, with its number in both.
struct KernelsOfStage {
  StageKernels stages;
  StepKernels steps;
  int number;
};

// A stage's number counts through all tables, and is the same for all data types. Python's lock is held at every call.
class KernelTables {
 public:
  explicit KernelTables(KernelTable own) : tables_{own} {}

  // A stage's number, or -1.
  int find(const std::string& fingerprint, int stage, bool backward) const;

  // Throws std::invalid_argument where there is no such stage.
  KernelsOfStage at(int number, DataType type) const;

  // Loads a library of kernels, for the rest of the process. Throws std::runtime_error where it does not load or was
  // not made for this extension.
  void load(const std::string& path);

 private:
  std::vector<KernelTable> tables_;
};

}  // namespace frcn
