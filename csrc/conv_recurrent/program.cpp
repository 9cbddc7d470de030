#include "conv_recurrent/program.h"

#include <algorithm>
#include <cstring>

#include "common/parallel.h"

namespace frcn {
namespace {

constexpr int64_t kStageWork = 8;            // of one value of a stage, in multiply-adds
constexpr int64_t kNormalizeWork = 2;        // of one value that is normalised, in each pass
constexpr int64_t kStripBytes = 128 * 1024;  // what one thread completes before it goes on: fits the second-level cache
constexpr int64_t kFewPixels = 32;           // per thread; below, threads share out the channels instead
constexpr int64_t kFlushPixels = 256;        // pixels summed in float before they go into the double sums

// One step of the program at one time, with its addresses.
struct Task {
  const FillStep* fill = nullptr;
  const ConvolutionStep* convolution = nullptr;
  const NormalizeStep* normalize = nullptr;
  bool applies = false;  // the second pass of a normalisation, which needs the first one of all threads
  const StageStep* stage = nullptr;
  char* target = nullptr;
  ConvolutionArgs convolution_args;
  NormalizeArgs normalize_args;
  StageArgs stage_args;
};

// Tasks that need no barrier between them: whoever computes a pixel's convolutions goes on with its stage.
struct Phase {
  const Program& program;
  std::vector<Task> tasks;

  int64_t element() const { return item_size(program.type); }
  int64_t pixels() const { return program.images * program.map_pixels; }
};

template <class F>
void add_rows(double* sums, const F* rows, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sums[i] += rows[i];
}

// Parameter gradients: a thread sums a few pixels in the accumulation type and adds them to sums in double. A
// gradient shared by all pixels has sums per thread; one per pixel of the map is written by the thread that owns
// these pixels of the map, in every image.
template <class F>
void run_with_gradients(const StageStep& s, StageArgs a, int64_t pixels, int part, int parts) {
  const int n = s.parameter_gradients, begin_gradients = static_cast<int>(s.buffers.size()) - n;
  const int64_t c = a.channels, map = a.pixels_per_image, images = pixels / map;
  bool per_pixel = false;
  for (int64_t size : s.parameter_size) per_pixel |= size != c;
  // Without per-pixel gradients any split will do: treat all images as one.
  const int64_t span = per_pixel ? map : pixels, rounds = per_pixel ? images : 1;
  const int64_t begin = span * part / parts, end = span * (part + 1) / parts;
  std::vector<std::vector<F>> rows(n);
  std::vector<std::vector<double>> shared(n);
  std::vector<double*> targets(n);
  for (int k = 0; k < n; ++k) {
    const bool own = s.parameter_size[k] != c;
    rows[k].resize((own ? kFlushPixels : 1) * c);
    if (!own) shared[k].assign(c, 0.0);
    targets[k] = reinterpret_cast<double*>(a.data[begin_gradients + k]);
    a.pitch[begin_gradients + k] = own ? c : 0;
  }
  for (int64_t round = 0; round < rounds; ++round) {
    for (int64_t p = begin; p < end; p += kFlushPixels) {
      const int64_t stop = std::min(end, p + kFlushPixels), first = round * span + p;
      for (int k = 0; k < n; ++k) {
        std::fill(rows[k].begin(), rows[k].end(), F(0));
        // The stage adds pitch * pixel to the pointer it gets.
        a.data[begin_gradients + k] = reinterpret_cast<char*>(rows[k].data() - first * a.pitch[begin_gradients + k]);
      }
      s.function(a, first, round * span + stop);
      for (int k = 0; k < n; ++k) {
        if (s.parameter_size[k] != c)
          add_rows(targets[k] + p * c, rows[k].data(), (stop - p) * c);
        else
          add_rows(shared[k].data(), rows[k].data(), c);
      }
    }
  }
  for (int k = 0; k < n; ++k)
    if (s.parameter_size[k] == c) add_rows(targets[k] + part * c, shared[k].data(), c);
}

// The channels [first, last) of a buffer with whole slots of `channels` each, on the pixels [begin, end).
void run_task(const Phase& phase, const Task& task, int part, int64_t begin, int64_t end, int64_t first, int64_t last) {
  const int64_t channels = phase.program.channels, size = phase.element();
  const bool all = first == 0 && last == channels;
  if (task.fill) {
    const int64_t pitch = task.fill->bytes, slot = all ? pitch : channels * size;
    const int64_t from = all ? 0 : first * size, count = all ? pitch : (last - first) * size;
    for (int64_t p = begin; p < end; ++p)
      for (int64_t at = from; at < pitch; at += slot)
        std::memcpy(task.target + p * pitch + at, task.fill->row + at, count);
  } else if (task.convolution) {
    const auto& args = task.convolution_args;
    const int64_t slot = all ? args.outputs : channels;
    for (int64_t at = 0; at < args.outputs; at += slot)
      task.convolution->function(args, begin, end, all ? at : at + first, all ? at + slot : at + last);
  } else if (task.normalize) {
    const auto& args = task.normalize_args;
    const NormalizeRange range{begin, end, channels, all ? 0 : first, all ? args.channels : last};
    if (task.applies)
      task.normalize->apply(args, range);
    else
      task.normalize->sums(args, range, part);
  } else {
    StageArgs args = task.stage_args;
    args.channels = last - first;
    for (size_t k = 0; k < task.stage->buffers.size(); ++k) args.data[k] += first * task.stage->element[k];
    task.stage->function(args, begin, end);
  }
}

// The convolution with fewer multiplications among the tasks, whose rows of tiles then are what threads share out; of
// several that which has room for the fewest at a time.
const WinogradConvolution* find_winograd(const Phase& phase) {
  const WinogradConvolution* found = nullptr;
  for (const Task& task : phase.tasks) {
    if (!task.convolution || !task.convolution->winograd.table) continue;
    const auto& own = task.convolution->winograd;
    if (!found || own.rows.rows < found->rows.rows) found = &own;
  }
  return found;
}

// All tasks for rows of tiles of one image: two rows of each of its frames.
void run_tile_rows(const Phase& phase, int part, int64_t image, int64_t first, int64_t rows, const int64_t (&size)[3]) {
  const int64_t width = size[2], last = std::min(size[1], 2 * (first + rows));
  for (const Task& task : phase.tasks) {
    if (task.convolution && task.convolution->winograd.table) {
      const auto& w = task.convolution->winograd;
      WinogradArgs args = w.args;
      args.source = reinterpret_cast<const float*>(task.convolution_args.source);
      args.target = reinterpret_cast<float*>(task.convolution_args.target);
      winograd_run_rows(*w.table, args, image, first, rows, reinterpret_cast<float*>(w.room + part * w.rows.bytes));
      continue;
    }
    for (int64_t frame = 0; frame < size[0]; ++frame) {
      const int64_t begin = (image * size[0] + frame) * size[1] * width;
      run_task(phase, task, part, begin + 2 * first * width, begin + last * width, 0, phase.program.channels);
    }
  }
}

// Pixels that one thread takes at a time.
int64_t strip(const Phase& phase) {
  int64_t widest = 0;
  for (const Task& task : phase.tasks)
    if (task.convolution) widest = std::max(widest, task.convolution_args.outputs * phase.element());
  if (!widest) return phase.pixels();
  const int64_t fitting = std::max<int64_t>(12, kStripBytes / widest), width = phase.program.width;
  return fitting < width ? fitting : fitting / width * width;
}

// Whether threads share out channels: few pixels, and slots that divide into whole blocks of outputs.
bool split_channels(const Phase& phase, int parts) {
  const int64_t channels = phase.program.channels;
  if (phase.pixels() >= kFewPixels * parts || channels < phase.program.block_outputs * parts ||
      channels % phase.program.block_outputs)
    return false;
  bool possible = false;
  for (const Task& task : phase.tasks) {
    if (task.convolution) possible = true;
    if (task.convolution && task.convolution_args.outputs % channels) return false;
    if (task.fill && task.fill->bytes % (channels * phase.element())) return false;
  }
  return possible;
}

void run_part(void* context, int part, int parts) {
  const Phase& phase = *static_cast<const Phase*>(context);
  const int64_t pixels = phase.pixels(), channels = phase.program.channels, width = phase.program.width;
  if (phase.tasks.front().stage && phase.tasks.front().stage->parameter_gradients) {
    const Task& task = phase.tasks.front();
    if (phase.program.type == DataType::float64)
      run_with_gradients<double>(*task.stage, task.stage_args, pixels, part, parts);
    else
      run_with_gradients<float>(*task.stage, task.stage_args, pixels, part, parts);
    return;
  }
  if (const auto* winograd = find_winograd(phase)) {
    const int64_t rows = (winograd->args.size[1] + 1) / 2, units = phase.program.images * rows;
    const int64_t end = units * (part + 1) / parts;
    for (int64_t unit = units * part / parts, count; unit < end; unit += count) {
      count = std::min({winograd->rows.rows, rows - unit % rows, end - unit});
      run_tile_rows(phase, part, unit / rows, unit % rows, count, winograd->args.size);
    }
    return;
  }
  if (split_channels(phase, parts)) {
    const int64_t block = phase.program.block_outputs, blocks = channels / block;
    for (const Task& task : phase.tasks)
      run_task(phase, task, part, 0, pixels, blocks * part / parts * block, blocks * (part + 1) / parts * block);
    return;
  }
  // Whole rows where there are enough of them, so that runs of pixels stay long.
  const int64_t unit = pixels / width >= 8 * parts ? width : 1, units = pixels / unit;
  const int64_t begin = units * part / parts * unit, end = units * (part + 1) / parts * unit;
  const int64_t step = strip(phase);
  for (int64_t p = begin; p < end; p += step)
    for (const Task& task : phase.tasks) run_task(phase, task, part, p, std::min(end, p + step), 0, channels);
}

// Whether a normalisation is about to be finished, from sums that a new one would overwrite.
bool waits(const Phase& phase, const NormalizeStep& step) {
  return std::any_of(phase.tasks.begin(), phase.tasks.end(), [&](const Task& t) { return t.normalize == &step; });
}

void flush(Phase& phase) {
  if (phase.tasks.empty()) return;
  int64_t work = 0;
  for (const Task& task : phase.tasks) {
    const auto& a = task.convolution_args;
    if (task.convolution) work += phase.pixels() * a.inputs * a.outputs * a.kernel[0] * a.kernel[1] * a.kernel[2];
    if (task.normalize) work += phase.pixels() * task.normalize_args.channels * kNormalizeWork;
    if (task.stage) work += phase.pixels() * phase.program.channels * kStageWork;
  }
  parallel(work < kSerialWork ? 1 : phase.program.threads, run_part, &phase);
  phase.tasks.clear();
}

}  // namespace

void Program::run(int64_t start, int64_t count, int64_t direction, bool at_start) const {
  Phase phase{*this, {}};
  bool ended = false;  // with a stage: what follows reads its neighbours' results, or overwrites what they read
  // Of each normalisation, those of every thread.
  std::vector<std::vector<ImageSums>> sums(normalizes.size());
  for (int64_t n = 0; n < count; ++n) {
    const int64_t time = start + n * direction;
    const bool first = at_start && n == 0;
    for (const Step& step : steps) {
      Task task;
      bool alone = false;
      if (step.kind == Kind::fill) {
        task.fill = &fills[step.index];
        task.target = task.fill->target.at(time, first);
      } else if (step.kind == Kind::convolution) {
        const ConvolutionStep& c = convolutions[step.index];
        if (first && c.skip_first) continue;
        task.convolution = &c;
        task.convolution_args = c.args;
        task.convolution_args.source = c.source.at(time, first);
        task.convolution_args.target = c.target.at(time, first);
      } else if (step.kind == Kind::normalize) {
        const NormalizeStep& s = normalizes[step.index];
        if (ended || waits(phase, s)) flush(phase);
        auto& own = sums[step.index];
        own.assign(images * threads, ImageSums());
        task.normalize = &s;
        task.normalize_args = {s.target.at(time, first),
                               s.backward ? s.normalized.at(time, first) : nullptr,
                               s.scale.at(time, first),
                               s.channels,
                               map_pixels,
                               s.eps,
                               own.data(),
                               images,
                               threads};
        phase.tasks.push_back(task);
        flush(phase);
        task.applies = true;
        phase.tasks.push_back(task);
        ended = s.backward;  // a convolution follows
        continue;
      } else {
        const StageStep& s = stages[step.index];
        task.stage = &s;
        for (size_t k = 0; k < s.buffers.size(); ++k) {
          task.stage_args.data[k] = s.buffers[k].at(time, first);
          task.stage_args.pitch[k] = s.pitch[k];
        }
        task.stage_args.channels = channels;
        task.stage_args.pixels_per_image = map_pixels;
        task.stage_args.lengths = lengths;
        task.stage_args.time = time;
        alone = s.parameter_gradients > 0;
      }
      if (ended || alone) flush(phase);
      phase.tasks.push_back(task);
      ended = step.kind == Kind::stage;
    }
  }
  flush(phase);
}

}  // namespace frcn
