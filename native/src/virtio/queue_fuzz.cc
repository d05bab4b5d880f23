// A queue whose driver writes anything anywhere: pops must stay in bounds and end.
#include <cstdlib>
#include <deque>

#include "virtio/features.h"
#include "virtio/queue.h"
#include "virtio/testing/fuzz_input.h"
#include "virtio/testing/guest_driver.h"

using namespace tshyve;
using namespace tshyve::virtio;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<GuestMemory> memory = test::makeMemory(1 << 20);
  test::FuzzInput input(data, size);
  const auto ram = *memory->slice(0, memory->totalBytes());
  std::fill(ram.begin(), ram.begin() + 0x8000, std::byte{0});
  const auto options = input.take<std::uint8_t>();
  const std::uint64_t features =
      ((options & 1) != 0 ? kFeatureEventIndex : 0) | ((options & 2) != 0 ? kFeatureIndirectDescriptors : 0);
  QueueLayout layout = test::fuzzLayout(0);
  if ((options & 4) != 0) {
    layout = {input.take<std::uint16_t>(), input.take<std::uint64_t>(), input.take<std::uint64_t>(),
              input.take<std::uint64_t>()};
  }
  const QueuePosition position =
      (options & 8) != 0 ? QueuePosition{input.take<std::uint16_t>(), input.take<std::uint16_t>()} : QueuePosition{};
  auto queue = Queue::create(*memory, layout, features, position);
  if (!queue) return 0;
  std::deque<Chain> taken;
  while (!input.empty()) {
    const auto code = input.take<std::uint8_t>();
    switch (code >> 4) {
      case 0:
      case 1:
      case 2: {
        Chain chain;
        const auto popped = (*queue)->pop(chain);
        if (!popped || !*popped) break;
        if (chain.readable.size() + chain.writable.size() > kMaxChainLength) std::abort();
        std::uint64_t total = 0;
        std::byte sum{0};
        for (const auto span : chain.readable) {
          total += span.size();
          sum ^= span.front() ^ span.back();
        }
        for (const auto span : chain.writable) {
          total += span.size();
          span.front() = span.back() = sum;
        }
        if (total > UINT32_MAX || total != chain.readableBytes() + chain.writableBytes()) std::abort();
        static_cast<void>(chain.read<std::uint64_t>(code));
        static_cast<void>(chain.write(code, std::uint64_t{code}));
        taken.push_back(std::move(chain));
        if (taken.size() > 64) taken.pop_front();
        break;
      }
      case 3:
        if (!taken.empty()) {
          (*queue)->push(taken.front().head, static_cast<std::uint32_t>(taken.front().writableBytes()));
          taken.pop_front();
        }
        break;
      case 4:
        if (!taken.empty()) {
          (*queue)->undoPop();
          taken.pop_back();
        }
        break;
      case 5:
        static_cast<void>((*queue)->shouldInterrupt());
        break;
      case 6:
        (*queue)->disableNotifications();
        break;
      case 7:
        static_cast<void>((*queue)->enableNotifications());
        break;
      default:
        test::fuzzGuestWrite(*memory, input, 0, code);
    }
  }
  return 0;
}
