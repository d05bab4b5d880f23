#pragma once

// The kernel's KVM interface, made right for C++. Debian 12's headers wrap flexible arrays into a structure that has
// size 0 in C and size 1 in C++; the size is part of the ioctl numbers, so those come out wrong from C++ only.
#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]
#include <linux/kvm.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

static_assert(sizeof(kvm_msrs) == 8);
static_assert(sizeof(kvm_cpuid2) == 8);
static_assert(sizeof(kvm_irq_routing) == 8);
static_assert(sizeof(kvm_msr_list) == 4);
static_assert(sizeof(kvm_signal_mask) == 4);
static_assert(sizeof(kvm_reg_list) == 8);
static_assert(KVM_GET_SUPPORTED_CPUID == 0xc008ae05);
static_assert(KVM_SET_GSI_ROUTING == 0x4008ae6a);

namespace tshyve::kvm {

/// A structure with a count and a flexible array behind it, as many KVM ioctls take.
template <typename Header, typename Entry>
class FlexArray {
 public:
  explicit FlexArray(std::size_t entries) : storage_((sizeof(Header) + entries * sizeof(Entry) + 7) / 8) {}
  explicit FlexArray(std::span<const Entry> entries) : FlexArray(entries.size()) {
    if (!entries.empty()) std::memcpy(this->entries(), entries.data(), entries.size_bytes());
  }
  Header& header() { return *reinterpret_cast<Header*>(storage_.data()); }
  Entry* entries() { return reinterpret_cast<Entry*>(reinterpret_cast<std::byte*>(storage_.data()) + sizeof(Header)); }

 private:
  std::vector<std::uint64_t> storage_;
};

}  // namespace tshyve::kvm
