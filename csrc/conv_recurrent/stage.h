// What a stage is to its callers: a function over a range of pixels, and the buffers that it gets.
#pragma once

#include <cstdint>

namespace frcn {

constexpr int kMaxStageArguments = 64;

// Buffers hold one row of channels per pixel; `pitch` is the distance between rows, in elements (0: one row for all).
struct StageArgs {
  char* data[kMaxStageArguments];
  int64_t pitch[kMaxStageArguments];
  int64_t channels;
  int64_t pixels_per_image;
  const int64_t* lengths;  // per image, or null
  int64_t time;
};

enum class DataType : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3 };

constexpr int64_t item_size(DataType type) { return type == DataType::float64 ? 8 : type == DataType::float32 ? 4 : 2; }

using StageFunction = void (*)(const StageArgs&, int64_t begin, int64_t end);

struct StageEntry {
  const char* fingerprint;
  int stage;
  bool backward;
  DataType type;
  int arguments;
  int parameter_gradients;  // the last so many arguments are accumulated over pixels
  StageFunction function;
};

// What was compiled for one instruction set.
struct StageTable {
  const char* isa;
  const StageEntry* entries;
  int count;
};

constexpr int kStageAbi = 1;  // to be raised with every change to the above

// What a library of stages that was compiled apart from the extension exports, as `fastrcn_stage_library`.
struct StageLibrary {
  int abi;
  const StageTable* table;
};

}  // namespace frcn
