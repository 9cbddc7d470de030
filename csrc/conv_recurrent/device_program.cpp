#include "conv_recurrent/device_program.h"

#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace frcn {
namespace {

using Setting = DeviceProgramSetting;
using Moment = DeviceMoment;

Tensor view(const Setting& setting, const Maps& maps, const Moment& now) {
  return setting.torch->view(maps.buffer.at(now.time, now.first), maps.layout, setting.type, setting.device);
}

class Fill : public DeviceStep {
 public:
  Fill(const Setting& setting, Maps target, Tensor row)
      : setting_(setting), target_(std::move(target)), row_(std::move(row)) {}

  void run(const Moment& now) override {
    const Tensor target = view(setting_, target_, now);
    if (row_)
      setting_.torch->copy(target, row_);
    else
      setting_.torch->zero(target);
  }

 private:
  const Setting& setting_;
  Maps target_;
  Tensor row_;
};

class Product : public DeviceStep {
 public:
  Product(const Setting& setting, Maps source, Maps target, Tensor matrix, bool skip_first)
      : setting_(setting),
        source_(std::move(source)),
        target_(std::move(target)),
        matrix_(std::move(matrix)),
        skip_first_(skip_first) {}

  void run(const Moment& now) override {
    if (now.first && skip_first_) return;
    setting_.torch->add_product(view(setting_, target_, now), view(setting_, source_, now), matrix_);
  }

 private:
  const Setting& setting_;
  Maps source_, target_;
  Tensor matrix_;
  bool skip_first_;
};

}  // namespace

class LibraryConvolution : public DeviceStep {
 public:
  LibraryConvolution(const Setting& setting, Maps source, Tensor weight, Window window, DeviceAddend& addend,
                     bool skip_first)
      : setting_(setting),
        source_(std::move(source)),
        weight_(std::move(weight)),
        window_(std::move(window)),
        addend_(addend),
        skip_first_(skip_first) {
    if (!addend_.fused) return;
    if (addend_.convolutions.size() == addend_.fused->convolution.sources.size())
      throw std::invalid_argument("fastrcn: a fused convolution has more sources than its kernel");
    addend_.convolutions.push_back(this);
  }

  void run(const Moment& now) override {
    if (now.first && skip_first_) return;
    if (addend_.fused) {
      // The first speaks for all, which come at the same time.
      if (addend_.convolutions[0] != this) return;
      if (addend_.waiting) throw std::logic_error("fastrcn: no stage has taken a convolution");
      addend_.waiting = true;
      addend_.moment = now;
    } else {
      convolve(now);
    }
  }

  uintptr_t source(const Moment& now) const {
    return reinterpret_cast<uintptr_t>(source_.buffer.at(now.time, now.first));
  }

  int64_t source_between() const { return source_.buffer.step; }

  // By the library, to the addend's result.
  void convolve(const Moment& now) const {
    Tensor found = setting_.torch->convolution(view(setting_, source_, now), weight_, window_);
    if (!setting_.torch->has_sizes(found, addend_.target.layout))
      throw std::runtime_error("fastrcn: a convolution's result has other sizes than its target");
    if (addend_.result) found = setting_.torch->add(addend_.result, found);
    // Where the library has chosen another layout than the maps have.
    if (!setting_.torch->has_strides(found, addend_.target.layout)) {
      Tensor copy = setting_.torch->empty(addend_.target.layout, setting_.type, setting_.device);
      setting_.torch->copy(copy, found);
      found = std::move(copy);
    }
    addend_.result = std::move(found);
  }

 private:
  const Setting& setting_;
  Maps source_;
  Tensor weight_;
  Window window_;
  DeviceAddend& addend_;
  bool skip_first_;
};

namespace {

void check(const std::string& problem, const char* whose = "a stage's kernel: ") {
  if (!problem.empty()) throw std::runtime_error(std::string("fastrcn: ") + whose + problem);
}

class Stage : public DeviceStep {
 public:
  Stage(const Setting& setting, const KernelsOfStage& kernels, std::vector<Buffer> buffers,
        const std::vector<int64_t>& pitch, const std::vector<bool>& maps, std::vector<StageTaker> takers,
        std::vector<DeviceAddend>& addends)
      : kernel_(stage_kernel(kernels.stages, kernels.number)),
        launch_(prepare_launch(kernel_, pitch, setting.sizes, setting.lengths, maps, setting.parts)),
        setting_(setting),
        buffers_(std::move(buffers)),
        takers_(std::move(takers)),
        addends_(addends) {
    if (buffers_.size() != pitch.size())
      throw std::invalid_argument("fastrcn: got " + std::to_string(buffers_.size()) + " buffers and " +
                                  std::to_string(pitch.size()) + " pitches");
    for (const StageTaker& taker : takers_) addends_.at(taker.addend);
    if (takers_.empty() || !addends_[takers_[0].addend].fused) return;
    is_behind_ = !addends_[takers_[0].addend].convolutions.empty();
    const StepConvolution& convolution = addends_[takers_[0].addend].fused->convolution;
    int64_t weights = 0;
    for (const StepSource& source : convolution.sources) weights += source.inputs * item_size(setting.type);
    for (const int64_t taps : convolution.kernel) weights *= taps;
    std::vector<StepSlot> slots;
    for (const StageTaker& taker : takers_) {
      const DeviceAddend& addend = addends_[taker.addend];
      if (!addend.fused)
        throw std::invalid_argument("fastrcn: a stage with a fused convolution takes others' results too");
      const uintptr_t weight = addend.fused->weight + taker.channel * weights;
      slots.push_back({weight, taker.argument, addend.alone, taker.written, 0, 0});
    }
    step_ = prepare_step(kernel_, launch_, convolution, std::move(slots));
    run_step_ = step_kernel(kernels.steps, kernels.number);
  }

  void run(const Moment& now) override {
    check(is_fused() ? run_fused(now) : run_alone(now));
    // The memory is free for what comes later on this stream.
    for (const StageTaker& taker : takers_)
      if (taker.last) addends_[taker.addend].result.reset();
  }

  std::optional<WalkedStep> walked(const Moment& now, int64_t direction) override {
    if (!run_step_ || !(is_behind_ || is_fused())) return {};
    set_fused(now);
    WalkedStep walked{};
    walked.step = step_;
    for (size_t k = 0; k < buffers_.size(); ++k) walked.between[k] = direction * buffers_[k].step;
    for (const StageTaker& taker : takers_)
      walked.targets_between.push_back(taker.argument < 0 ? direction * addends_[taker.addend].target.buffer.step : 0);
    for (const LibraryConvolution* one : addends_[takers_[0].addend].convolutions)
      walked.sources_between.push_back(direction * one->source_between());
    return walked;
  }

 private:
  bool is_fused() const { return run_step_ && addends_[takers_[0].addend].waiting; }

  void set(StageLaunch& launch, const Moment& now) const {
    launch.args.time = now.time;
    for (size_t k = 0; k < buffers_.size(); ++k) launch.args.data[k] = buffers_[k].at(now.time, now.first);
  }

  std::string run_fused(const Moment& now) {
    set_fused(now);
    for (const StageTaker& taker : takers_) addends_[taker.addend].waiting = false;
    return run_step_(step_, now.where);
  }

  // The convolutions are those that are waiting, or else come before the stage at this time.
  void set_fused(const Moment& now) {
    set(step_.stage, now);
    const DeviceAddend& one = addends_[takers_[0].addend];
    for (size_t n = 0; n < step_.convolution.sources.size(); ++n)
      step_.convolution.sources[n].maps = one.convolutions.at(n)->source(one.waiting ? one.moment : now);
    for (size_t n = 0; n < takers_.size(); ++n) {
      if (takers_[n].argument >= 0) continue;
      const DeviceAddend& addend = addends_[takers_[n].addend];
      const Moment& made = addend.waiting ? addend.moment : now;
      const char* target = addend.target.buffer.at(made.time, made.first);
      step_.slots[n].target = reinterpret_cast<uintptr_t>(target) + takers_[n].channel * item_size(setting_.type);
      step_.slots[n].target_pitch = addend.fused->target_pitch;
    }
  }

  std::string run_alone(const Moment& now) const {
    StageLaunch launch = launch_;
    set(launch, now);
    for (const StageTaker& taker : takers_) {
      const DeviceAddend& addend = addends_[taker.addend];
      if (!addend.result) continue;
      const auto address =
          reinterpret_cast<uintptr_t>(setting_.torch->data(addend.result)) + taker.channel * item_size(setting_.type);
      set_addend(launch, kernel_,
                 {taker.argument, address, addend.target.layout.sizes[1], addend.alone, taker.written});
    }
    return kernel_.run(launch, now.where);
  }

  const StageKernel& kernel_;
  const StageLaunch launch_;
  const Setting& setting_;
  std::vector<Buffer> buffers_;
  std::vector<StageTaker> takers_;
  std::vector<DeviceAddend>& addends_;
  StepLaunch step_{};       // with fused convolutions, where there is such a kernel
  bool is_behind_ = false;  // these come before it in the list, so that they are of its own time
  std::string (*run_step_)(const StepLaunch&, void* where) = nullptr;
};

class Normalization : public DeviceStep {
 public:
  // `source`: what forward made; without one this is the forward. `addend`: what is normalised, or null.
  Normalization(const Setting& setting, const Maps& target, const Buffer* source, Buffer scale, double eps,
                DeviceAddend* addend)
      : setting_(setting), target_(target.buffer), scale_(scale), addend_(addend) {
    const std::vector<int64_t>& sizes = target.layout.sizes;
    run_ = source ? setting.normalize.backward : setting.normalize.forward;
    if (source) source_ = *source;
    launch_.images = sizes.at(0);
    launch_.values = std::accumulate(sizes.begin() + 1, sizes.end(), int64_t{1}, std::multiplies<>());
    launch_.slices = normalize_slices(launch_.images, launch_.values, setting.parts);
    launch_.eps = eps;
  }

  void run(const Moment& now) override {
    launch_.target = target_.at(now.time, now.first);
    launch_.scale = scale_.at(now.time, now.first);
    launch_.source = launch_.target;
    if (source_) launch_.source = source_->at(now.time, now.first);
    // Where there is no result, as of a state that is zero, all of the target is.
    if (addend_) launch_.source = addend_->result ? static_cast<char*>(setting_.torch->data(addend_->result)) : nullptr;
    Tensor sums;
    if (launch_.slices > 1) {
      const auto type = setting_.type == DataType::float64 ? DataType::float64 : DataType::float32;
      sums = setting_.torch->empty({{launch_.images * launch_.slices * kSliceSums}, {1}}, type, setting_.device);
      launch_.sums = static_cast<char*>(setting_.torch->data(sums));
    }
    check(run_(launch_, now.where), "a normalisation's kernel: ");
    // This memory too is free for what comes later on this stream.
    if (addend_) addend_->result.reset();
  }

 private:
  const Setting& setting_;
  Buffer target_, scale_;
  std::optional<Buffer> source_;
  DeviceAddend* addend_;
  NormalizeLaunch launch_{};
  std::string (*run_)(const NormalizeLaunch&, void* where);
};

}  // namespace

size_t DeviceProgram::add_addend(Maps target, bool alone, std::optional<FusedConvolution> fused) {
  if (!steps_.empty()) throw std::invalid_argument("fastrcn: addends are added before the steps");
  addends_.push_back({std::move(target), alone, std::move(fused), {}, {}});
  return addends_.size() - 1;
}

void DeviceProgram::add_fill(Maps target, char* row, Layout row_layout) {
  Tensor values = row ? setting_.torch->view(row, row_layout, setting_.type, setting_.device) : Tensor();
  steps_.push_back(std::make_unique<Fill>(setting_, std::move(target), std::move(values)));
}

void DeviceProgram::add_product(Maps source, Maps target, char* matrix, const Layout& matrix_layout, bool skip_first) {
  Tensor values = setting_.torch->view(matrix, matrix_layout, setting_.type, setting_.device);
  steps_.push_back(
      std::make_unique<Product>(setting_, std::move(source), std::move(target), std::move(values), skip_first));
}

void DeviceProgram::add_convolution(Maps source, char* weight, const Layout& weight_layout, Window window,
                                    size_t addend, bool skip_first) {
  Tensor values = setting_.torch->view(weight, weight_layout, setting_.type, setting_.device);
  steps_.push_back(std::make_unique<LibraryConvolution>(setting_, std::move(source), std::move(values),
                                                        std::move(window), addends_.at(addend), skip_first));
}

void DeviceProgram::add_stage(const KernelsOfStage& kernels, std::vector<Buffer> buffers,
                              const std::vector<int64_t>& pitch, const std::vector<bool>& maps,
                              std::vector<StageTaker> takers) {
  steps_.push_back(
      std::make_unique<Stage>(setting_, kernels, std::move(buffers), pitch, maps, std::move(takers), addends_));
  stages_.push_back(steps_.size() - 1);
  if (stages_.size() == 1 && setting_.fewest_walked > 0) walk_ = kernels.steps.walk[kernels.number];
}

void DeviceProgram::add_normalize(const Maps& target, Buffer scale, double eps, std::optional<size_t> addend) {
  DeviceAddend* taken = addend ? &addends_.at(*addend) : nullptr;
  if (taken && !taken->alone) throw std::invalid_argument("fastrcn: a normalisation takes an addend that is alone");
  steps_.push_back(std::make_unique<Normalization>(setting_, target, nullptr, scale, eps, taken));
}

void DeviceProgram::add_normalize_backward(const Maps& target, Buffer normalized, Buffer scale) {
  steps_.push_back(std::make_unique<Normalization>(setting_, target, &normalized, scale, 0.0, nullptr));
}

void DeviceProgram::run(int64_t start, int64_t count, int64_t direction, bool at_start, void* where) {
  for (int64_t n = 0; n < count; ++n)
    for (size_t k = 0; k < steps_.size(); ++k) {
      const DeviceMoment now{start + n * direction, at_start && n == 0, where};
      if (walk_ && k == stages_.front() && walk(now, count - n, direction)) {
        // What comes after the last stage in the list sees the last of these times.
        n = count - 1;
        k = stages_.back();
      } else {
        steps_[k]->run(now);
      }
    }
}

bool DeviceProgram::walk(const DeviceMoment& now, int64_t count, int64_t direction) {
  if (count < setting_.fewest_walked || now.first) return false;
  StepWalk walk{{}, count, direction, nullptr};
  for (const size_t k : stages_) {
    std::optional<WalkedStep> step = steps_[k]->walked(now, direction);
    if (!step) return false;
    walk.steps.push_back(std::move(*step));
  }
  // Four bytes of zero, free for what comes later on this stream.
  const Tensor arrivals = setting_.torch->empty({{4 / item_size(setting_.type)}, {1}}, setting_.type, setting_.device);
  setting_.torch->zero(arrivals);
  walk.arrivals = static_cast<uint32_t*>(setting_.torch->data(arrivals));
  const auto problem = walk_(walk, now.where);
  if (!problem) {
    walk_ = nullptr;  // its blocks are as many at all times
    return false;
  }
  check(*problem);
  for (DeviceAddend& addend : addends_) addend.waiting = false;
  return true;
}

void DeviceProgram::settle() {
  for (DeviceAddend& addend : addends_) {
    if (addend.waiting)
      for (const LibraryConvolution* one : addend.convolutions) one->convolve(addend.moment);
    addend.waiting = false;
    if (!addend.result) continue;
    if (addend.target.buffer.step != 0)
      throw std::logic_error("fastrcn: no stage has taken a convolution's result at a time that is over");
    const Tensor target = view(setting_, addend.target, {0, false, nullptr});
    setting_.torch->copy(target, setting_.torch->add(target, addend.result));
    addend.result.reset();
  }
}

}  // namespace frcn
