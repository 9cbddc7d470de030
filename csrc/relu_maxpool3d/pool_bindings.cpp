// The passes as Python functions. Addresses are integers; 0: none.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <tuple>

#include "bindings.h"
#include "conv3d_relu_maxpool3d/strips.h"
#include "kernels.h"
#include "relu_maxpool3d/passes.h"
#if defined(FASTRCN_WITH_CUDA)
#include "relu_maxpool3d/pool_cuda.h"
#endif

namespace py = pybind11;

namespace {

// kernel, stride, padding, dilation; images, channels, size; pooled size; channels-last
using Window = std::array<int64_t, 12>;
using Shape = std::array<int64_t, 5>;
using Size = std::array<int64_t, 3>;

frcn::PoolArgs make_args(const Window& window, const Shape& shape, const Size& pooled, bool last) {
  frcn::PoolArgs a{};
  a.images = shape[0];
  a.channels = shape[1];
  std::copy_n(shape.begin() + 2, 3, a.size);
  std::copy(pooled.begin(), pooled.end(), a.pooled_size);
  int64_t* parts[] = {a.kernel, a.stride, a.padding, a.dilation};
  for (int k = 0; k < 4; ++k) std::copy_n(window.begin() + 3 * k, 3, parts[k]);
  if (a.kernel[0] * a.kernel[1] * a.kernel[2] > frcn::kMaxCells)
    throw std::invalid_argument("fastrcn: a pooling window has more than 255 cells");
  a.last = last;
  a.pooled_pixel = a.channels;
  const int64_t pixel = last ? a.channels : 1;
  a.step[3] = a.size[2] * pixel;
  a.step[2] = a.size[1] * a.step[3];
  a.step[1] = last ? 0 : a.size[0] * a.step[2];
  a.step[0] = last ? a.size[0] * a.step[2] : a.channels * a.step[1];
  return a;
}

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

frcn::PoolArgs forward_args(const Window& window, const Shape& shape, const Size& pooled, bool last, bool relu,
                            uintptr_t x, uintptr_t out, uintptr_t index, uintptr_t scale, uintptr_t shift) {
  auto a = make_args(window, shape, pooled, last);
  a.relu = relu;
  a.maps = at<char>(x);
  a.pooled = at<char>(out);
  a.index = at<uint8_t>(index);
  a.scale = at<char>(scale);
  a.shift = at<char>(shift);
  return a;
}

frcn::PoolArgs sums_args(const Window& window, const Shape& shape, const Size& pooled, bool last, int gate,
                         uintptr_t grad, uintptr_t index, uintptr_t x, uintptr_t center) {
  auto a = make_args(window, shape, pooled, last);
  a.gate = static_cast<frcn::Gate>(gate);
  a.pooled = at<char>(grad);
  a.index = at<uint8_t>(index);
  a.x = at<char>(x);
  a.center = at<char>(center);
  return a;
}

frcn::PoolArgs backward_args(const Window& window, const Shape& shape, const Size& pooled, bool last, int gate,
                             uintptr_t grad, uintptr_t index, uintptr_t dx, uintptr_t scale, uintptr_t x,
                             uintptr_t center, uintptr_t slope, uintptr_t offset) {
  auto a = sums_args(window, shape, pooled, last, gate, grad, index, x, center);
  a.maps = at<char>(dx);
  a.scale = at<char>(scale);
  a.slope = at<char>(slope);
  a.offset = at<char>(offset);
  return a;
}

frcn::PoolArgs statistics_args(const Shape& shape, bool last, uintptr_t x, uintptr_t center) {
  auto a = make_args({1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1}, shape, {0, 0, 0}, last);
  a.x = at<char>(x);
  a.center = at<char>(center);
  return a;
}

const frcn::PoolFunctions& functions(const std::string& isa, int type) {
  return frcn::find_kernels(isa).pools->types[type];
}

#if defined(FASTRCN_WITH_CUDA)
// Each starts its kernels on a stream and returns an empty text or what went wrong.
void bind_cuda(py::module_& m) {
  m.def("cuda_pool_partials", &frcn::count_cuda_pool_partials, "Doubles that the sums of so many channels work in.");
  m.def(
      "cuda_pool_forward",
      [](int type, const Window& window, const Shape& shape, const Size& pooled, bool last, bool relu, uintptr_t x,
         uintptr_t out, uintptr_t index, uintptr_t scale, uintptr_t shift, uintptr_t stream) {
        const auto a = forward_args(window, shape, pooled, last, relu, x, out, index, scale, shift);
        return frcn::cuda_pool_forward(a, type, at<void>(stream));
      },
      "pool_forward on a GPU.");
  m.def(
      "cuda_pool_backward",
      [](int type, const Window& window, const Shape& shape, const Size& pooled, bool last, int gate, uintptr_t grad,
         uintptr_t index, uintptr_t dx, uintptr_t scale, uintptr_t x, uintptr_t center, uintptr_t slope,
         uintptr_t offset, uintptr_t stream) {
        const auto a =
            backward_args(window, shape, pooled, last, gate, grad, index, dx, scale, x, center, slope, offset);
        return frcn::cuda_pool_backward(a, type, at<void>(stream));
      },
      "pool_backward on a GPU.");
  m.def(
      "cuda_pool_sums",
      [](int type, const Window& window, const Shape& shape, const Size& pooled, bool last, int gate, uintptr_t grad,
         uintptr_t index, uintptr_t x, uintptr_t center, uintptr_t partials, uintptr_t totals, uintptr_t stream) {
        const auto a = sums_args(window, shape, pooled, last, gate, grad, index, x, center);
        return frcn::cuda_pool_sums(a, type, at<double>(partials), at<double>(totals), at<void>(stream));
      },
      "pool_sums on a GPU.");
  m.def(
      "cuda_pool_statistics",
      [](int type, const Shape& shape, bool last, uintptr_t x, uintptr_t center, uintptr_t partials, uintptr_t totals,
         uintptr_t stream) {
        const auto a = statistics_args(shape, last, x, center);
        return frcn::cuda_pool_statistics(a, type, at<double>(partials), at<double>(totals), at<void>(stream));
      },
      "pool_statistics on a GPU.");
}
#endif

}  // namespace

void bind_relu_maxpool3d(py::module_& m) {
#if defined(FASTRCN_WITH_CUDA)
  bind_cuda(m);
#endif
  m.def(
      "pool_forward",
      [](const std::string& isa, int type, const Window& window, const Shape& shape, const Size& pooled, bool last,
         bool relu, uintptr_t x, uintptr_t out, uintptr_t index, uintptr_t scale, uintptr_t shift, int threads) {
        const auto a = forward_args(window, shape, pooled, last, relu, x, out, index, scale, shift);
        py::gil_scoped_release release;
        frcn::pool_forward(functions(isa, type), a, threads);
      },
      "max_pool3d(relu(x * scale + shift)) and the cell of each window.");
  m.def(
      "pool_backward",
      [](const std::string& isa, int type, const Window& window, const Shape& shape, const Size& pooled, bool last,
         int gate, uintptr_t grad, uintptr_t index, uintptr_t dx, uintptr_t scale, uintptr_t x, uintptr_t center,
         uintptr_t slope, uintptr_t offset, int threads) {
        const auto a =
            backward_args(window, shape, pooled, last, gate, grad, index, dx, scale, x, center, slope, offset);
        py::gil_scoped_release release;
        frcn::pool_backward(functions(isa, type), a, threads);
      },
      "scale * (grad led to the cell of its window) + slope * (x - center) + offset.");
  m.def(
      "pool_sums",
      [](const std::string& isa, int type, const Window& window, const Shape& shape, const Size& pooled, bool last,
         int gate, uintptr_t grad, uintptr_t index, uintptr_t x, uintptr_t center, uintptr_t sums, int threads) {
        const auto a = sums_args(window, shape, pooled, last, gate, grad, index, x, center);
        py::gil_scoped_release release;
        frcn::pool_sums(functions(isa, type), a, threads, type == 1, at<void>(sums));
      },
      "Per channel, sums of grad and of grad * (x - center) at the cells that it is led to.");
  m.def(
      "pool_statistics",
      [](const std::string& isa, int type, const Shape& shape, bool last, uintptr_t x, uintptr_t mean, uintptr_t var,
         int threads) {
        const auto a = statistics_args(shape, last, x, 0);
        py::gil_scoped_release release;
        frcn::pool_statistics(functions(isa, type), a, threads, type == 1, at<void>(mean), at<void>(var));
      },
      "Per channel, mean and biased variance.");
  m.def(
      "conv3d_relu_maxpool3d",
      [](const std::string& isa, int type, const std::array<int64_t, 12>& convolution, const Shape& source,
         const Shape& maps, const Window& window, const Size& pooled, bool last, bool relu, uintptr_t x,
         uintptr_t weight, uintptr_t bias, uintptr_t out, uintptr_t index, int threads) {
        const auto kernels = frcn::find_kernels(isa);
        frcn::Strips s{};
        s.element = type == 1 ? 8 : 4;
        s.images = maps[0];
        s.block_outputs = kernels.convolutions->block_outputs(s.element);
        s.convolve = type == 1 ? kernels.convolutions->convolve_double : kernels.convolutions->convolve_float;
        s.pool_forward = kernels.pools->types[type].forward;
        s.bias = at<const char>(bias);
        s.last = last;
        auto& c = s.convolution;
        c.source = at<const char>(x);
        c.weight = at<const char>(weight);
        c.inputs = source[1];
        c.outputs = maps[1];
        std::copy_n(source.begin() + 2, 3, c.source_size);
        std::copy_n(maps.begin() + 2, 3, c.size);
        int64_t* parts[] = {c.kernel, c.stride, c.padding, c.dilation};
        for (int k = 0; k < 4; ++k) std::copy_n(convolution.begin() + 3 * k, 3, parts[k]);
        s.pool = make_args(window, maps, pooled, true);
        s.pool.relu = relu;
        s.pool.pooled = at<char>(out);
        s.pool.index = at<uint8_t>(index);
        py::gil_scoped_release release;
        frcn::run_strips(s, threads);
      },
      "max_pool3d(relu(conv3d(x, weight, bias))) of channels-last x, and the cell of each window, strip by strip.");
}
