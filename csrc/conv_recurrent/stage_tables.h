// Which compiled stages there are: those of the built-in cells, and those of libraries that were loaded since.
#pragma once

#include <string>

#include "conv_recurrent/stage.h"

namespace frcn {

// A stage for an instruction set; null where it was not compiled. Throws std::invalid_argument where the instruction
// set is not usable.
const StageEntry* find_stage(const std::string& isa, const std::string& fingerprint, int stage, bool backward,
                             DataType type);

// Loads a library of stages, for the rest of the process. Throws std::runtime_error where it does not load or was not
// made for this extension or this processor.
void register_stages(const std::string& path);

}  // namespace frcn
