#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include "acpi/bytes.h"

/// Encodes the part of the ACPI Machine Language that describes this machine (ACPI 6.5, chapter 20). Every function
/// returns the encoding of one term; terms are put together by passing them on.
namespace tshyve::acpi::aml {

/// Terms one after the other.
Bytes sequence(std::initializer_list<Bytes> terms);

Bytes integer(std::uint64_t value);
Bytes string(std::string_view text);
/// @param path of 1 to 4 character segments with dots between, with `\` in front if absolute
Bytes path(std::string_view path);
/// A plug-and-play id such as PNP0501 (ACPI 6.5, section 19.6.37).
Bytes eisaId(std::string_view id);
/// @param text aabbccdd-eeff-gghh-iijj-kkllmmnnoopp (ACPI 6.5, section 19.6.142)
Bytes uuid(std::string_view text);
Bytes buffer(const Bytes& content);
Bytes package(std::initializer_list<Bytes> elements);

Bytes name(std::string_view path, const Bytes& value);
Bytes scope(std::string_view path, std::initializer_list<Bytes> terms);
Bytes device(std::string_view name, std::initializer_list<Bytes> terms);
Bytes method(std::string_view name, unsigned arguments, bool serialized, std::initializer_list<Bytes> terms);

/// @param index from 0 to 6
Bytes argument(unsigned index);
Bytes equal(const Bytes& left, const Bytes& right);
Bytes ifTrue(const Bytes& condition, std::initializer_list<Bytes> terms);
Bytes returns(const Bytes& value);
Bytes notify(std::string_view path, std::uint64_t value);

// --- Resource descriptors (ACPI 6.5, section 6.4), for resourceTemplate ---

Bytes resourceTemplate(std::initializer_list<Bytes> descriptors);
Bytes ioPorts(std::uint16_t start, std::uint8_t count);
/// A line of the IO-APIC: edge-triggered, active high, not shared.
Bytes edgeInterrupt(std::uint32_t gsi);
Bytes fixedMemory32(std::uint32_t start, std::uint32_t size);
// What a bridge passes on to its bus; ends are inclusive.
Bytes busNumbers(std::uint16_t first, std::uint16_t last);
Bytes ioWindow(std::uint16_t first, std::uint16_t last);
Bytes memoryWindow32(std::uint32_t first, std::uint32_t last);
Bytes memoryWindow64(std::uint64_t first, std::uint64_t last);

}  // namespace tshyve::acpi::aml
