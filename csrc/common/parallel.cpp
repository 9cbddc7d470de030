#include "common/parallel.h"

#include <dlfcn.h>

namespace frcn {
namespace {

// GNU's entry points; LLVM's and Intel's runtimes export them too.
struct Runtime {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*thread_number)() = nullptr;
  int (*thread_count)() = nullptr;
  int (*in_parallel)() = nullptr;

  Runtime() {
    parallel = reinterpret_cast<decltype(parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    thread_number = reinterpret_cast<decltype(thread_number)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
    thread_count = reinterpret_cast<decltype(thread_count)>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
    in_parallel = reinterpret_cast<decltype(in_parallel)>(dlsym(RTLD_DEFAULT, "omp_in_parallel"));
  }

  bool found() const { return parallel && thread_number && thread_count && in_parallel; }
};

const Runtime& runtime() {
  static const Runtime found;
  return found;
}

struct Task {
  void (*body)(void*, int, int);
  void* context;
};

void run_part(void* data) {
  const Task& task = *static_cast<Task*>(data);
  task.body(task.context, runtime().thread_number(), runtime().thread_count());
}

}  // namespace

bool parallel_runtime_found() { return runtime().found(); }

void parallel(int threads, void (*body)(void*, int, int), void* context) {
  if (threads <= 1 || !runtime().found() || runtime().in_parallel()) {
    body(context, 0, 1);
    return;
  }
  Task task{body, context};
  runtime().parallel(run_part, &task, static_cast<unsigned>(threads), 0);
}

}  // namespace frcn
