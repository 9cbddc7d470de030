// The time loop of the cuda backend: the convolutions are PyTorch's, the stages and normalisations kernels. It knows no
// CUDA: the type of the tensors and the kernels' tables decide where all of it runs. Everything is started on one
// stream, and nothing waited for. Errors are exceptions with the text of whoever failed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "conv_recurrent/buffer.h"
#include "conv_recurrent/kernel_tables.h"
#include "conv_recurrent/normalize_kernels.h"
#include "conv_recurrent/torch_library.h"

namespace frcn {

// Maps of one step as PyTorch sees them.
struct Maps {
  Buffer buffer;
  Layout layout;
};

// What is the same for all steps. `device`: its index. `lengths`: of the images, or null. `parts`: blocks of threads
// that share out sums, and rows of these. `fewest_walked`: so many steps of time, or more, are one kernel; 0: never.
// The list then has all stages of a cell in one direction, and else fused convolutions alone, of which each stage takes
// some.
struct DeviceProgramSetting {
  std::shared_ptr<const TorchLibrary> torch;
  NormalizeKernels normalize;
  DataType type;
  int device;
  StageSizes sizes;
  const int64_t* lengths;
  int64_t parts;
  int64_t fewest_walked;
};

// One step of the list at one time.
struct DeviceMoment {
  int64_t time;
  bool first;   // of the sequence
  void* where;  // the stream
};

class LibraryConvolution;

// Without the sources' addresses.
struct FusedConvolution {
  StepConvolution convolution;
  uintptr_t weight;
  int64_t target_pitch;  // channels from pixel to pixel of the target
};

// A convolution's result, or the sum of several, from its making to the last stage that adds it to the target, or the
// normalisation that takes it. `alone`: the target begins at zero, and has nothing else. `fused`: the first stage that
// takes it makes it too, from the sources at the moment when it would have been made, and leaves other stages' slots in
// the target; `waiting`: it has not yet been made so.
struct DeviceAddend {
  Maps target;  // channels first; the results' layout too
  bool alone;
  std::optional<FusedConvolution> fused;
  Tensor result;
  std::vector<const LibraryConvolution*> convolutions;  // that are fused, one for each source
  bool waiting = false;
  DeviceMoment moment{};
};

// The channels of an addend that a stage adds to an argument, from `channel` on; -1: of a fused one, which another
// stage will load from the target. `written`: the sum is needed by others; `last`: no other stage needs this result.
struct StageTaker {
  size_t addend;
  int argument;
  int64_t channel;
  bool written, last;
};

class DeviceStep {
 public:
  virtual ~DeviceStep() = default;
  virtual void run(const DeviceMoment& now) = 0;
  // Itself as one of the kernels of a step for many times, from this one on; nothing where it cannot be.
  virtual std::optional<WalkedStep> walked(const DeviceMoment& /*now*/, int64_t /*direction*/) { return {}; }
};

class DeviceProgram {
 public:
  explicit DeviceProgram(DeviceProgramSetting setting) : setting_(std::move(setting)) {}
  // Steps refer to this.
  DeviceProgram(const DeviceProgram&) = delete;
  DeviceProgram& operator=(const DeviceProgram&) = delete;

  // The number of a new addend. All are added before the steps.
  size_t add_addend(Maps target, bool alone, std::optional<FusedConvolution> fused);

  // target = row, or zero where its address is null.
  void add_fill(Maps target, char* row, Layout row_layout);
  // target (P,Co) += source (P,Ci) @ matrix (Ci,Co)
  void add_product(Maps source, Maps target, char* matrix, const Layout& matrix_layout, bool skip_first);
  // The result goes to an addend, and is added to what is there. `skip_first`: not at the sequence's first step.
  void add_convolution(Maps source, char* weight, const Layout& weight_layout, Window window, size_t addend,
                       bool skip_first);
  // The last buffers are sums, as a StageLaunch has them.
  void add_stage(const KernelsOfStage& kernels, std::vector<Buffer> buffers, const std::vector<int64_t>& pitch,
                 const std::vector<bool>& maps, std::vector<StageTaker> takers);
  // Of the target's images, in place, or of an addend that is all of the target. `scale`: see NormalizeLaunch.
  void add_normalize(const Maps& target, Buffer scale, double eps, std::optional<size_t> addend);
  // `normalized`: what forward made.
  void add_normalize_backward(const Maps& target, Buffer normalized, Buffer scale);

  // Runs the steps at times start, start + direction, ..., count in all, on the stream `where`, which is PyTorch's
  // current one. `at_start`: the first of these times is the sequence's first step.
  void run(int64_t start, int64_t count, int64_t direction, bool at_start, void* where);

  // Adds to its target what no later stage will: only targets that all times share get that far.
  void settle();

 private:
  // Takes this time and later ones at once, all of `count`, from the first stage to the last, where it can.
  bool walk(const DeviceMoment& now, int64_t count, int64_t direction);

  DeviceProgramSetting setting_;
  std::vector<DeviceAddend> addends_;
  std::vector<std::unique_ptr<DeviceStep>> steps_;
  std::vector<size_t> stages_;  // places in the list
  WalkKernel walk_ = nullptr;
};

}  // namespace frcn
