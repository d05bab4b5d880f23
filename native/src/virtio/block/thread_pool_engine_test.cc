#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "sandbox/seccomp.h"
#include "virtio/block/io_engine.h"

namespace tshyve::virtio {
namespace {

/// How many of this process's threads of this name have a seccomp filter, proc(5), and how many have none.
struct Confined {
  int with = 0;
  int without = 0;
};
Confined threadsNamed(const std::string& name) {
  Confined found;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream status(task.path() / "status");
    bool named = false;
    for (std::string line; std::getline(status, line);) {
      if (line == "Name:\t" + name) named = true;
      if (named && line.starts_with("Seccomp:")) (line == "Seccomp:\t2" ? found.with : found.without)++;
    }
  }
  return found;
}

bool readsConfined() {
  const UniqueFd file(::memfd_create("disk", MFD_CLOEXEC));
  if (::write(file.get(), "data", 4) != 4) return false;
  auto engine = makeThreadPoolEngine(file.get());
  if (!engine) return false;
  std::array<char, 4> bytes{};
  iovec buffer{bytes.data(), bytes.size()};
  IoOperation operation;
  operation.kind = IoOperation::Kind::kRead;
  operation.buffers = {&buffer, 1};
  std::vector<IoOperation*> done;
  std::thread([&] {
    if (!sandbox::confineThread(sandbox::Role::kDevices)) return;
    (*engine)->submit(operation);
    (*engine)->flush();
    (*engine)->reap(done, true);
  }).join();
  const Confined threads = threadsNamed("disk-io");
  return done.size() == 1 && operation.result == 4 && bytes[3] == 'a' && threads.with > 0 && threads.without == 0;
}

TEST(ThreadPoolEngine, HasThreadsThatAreConfinedAsTheirUser) {
  // In a process of its own: a confined thread stays so.
  EXPECT_EXIT(::_exit(readsConfined() ? 0 : 1), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace tshyve::virtio
