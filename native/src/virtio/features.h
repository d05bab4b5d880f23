#pragma once

#include <cstdint>

namespace tshyve::virtio {

/// Feature bits that belong to no device type (Virtual I/O Device 1.2, section 6).
constexpr std::uint64_t kFeatureIndirectDescriptors = 1ULL << 28;
constexpr std::uint64_t kFeatureEventIndex = 1ULL << 29;
constexpr std::uint64_t kFeatureVersion1 = 1ULL << 32;

}  // namespace tshyve::virtio
