// The parts of the Python module that have a file of their own.
#pragma once

#include <pybind11/pybind11.h>

void bind_relu_maxpool3d(pybind11::module_& m);
void bind_cuda_stages(pybind11::module_& m);
