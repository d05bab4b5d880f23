#include "acpi/aml.h"

#include <string>

namespace tshyve::acpi::aml {
namespace {

// Opcodes (ACPI 6.5, section 20.3).
constexpr std::uint8_t kZero = 0x00;
constexpr std::uint8_t kOne = 0x01;
constexpr std::uint8_t kName = 0x08;
constexpr std::uint8_t kByte = 0x0a;
constexpr std::uint8_t kWord = 0x0b;
constexpr std::uint8_t kDword = 0x0c;
constexpr std::uint8_t kString = 0x0d;
constexpr std::uint8_t kQword = 0x0e;
constexpr std::uint8_t kScope = 0x10;
constexpr std::uint8_t kBuffer = 0x11;
constexpr std::uint8_t kPackage = 0x12;
constexpr std::uint8_t kMethod = 0x14;
constexpr std::uint8_t kDualName = 0x2e;
constexpr std::uint8_t kMultiName = 0x2f;
constexpr std::uint8_t kExtended = 0x5b;
constexpr std::uint8_t kDevice = 0x82;  // after kExtended
constexpr std::uint8_t kArgument0 = 0x68;
constexpr std::uint8_t kNotify = 0x86;
constexpr std::uint8_t kEqual = 0x93;
constexpr std::uint8_t kIf = 0xa0;
constexpr std::uint8_t kReturn = 0xa4;

// Resource descriptor tags (ACPI 6.5, tables 6.27 and 6.40).
constexpr std::uint8_t kIoPorts = 0x47;
constexpr std::uint8_t kEndTag = 0x79;
constexpr std::uint8_t kFixedMemory32 = 0x86;
constexpr std::uint8_t kDwordAddressSpace = 0x87;
constexpr std::uint8_t kWordAddressSpace = 0x88;
constexpr std::uint8_t kExtendedInterrupt = 0x89;
constexpr std::uint8_t kQwordAddressSpace = 0x8a;

Bytes opcode(std::uint8_t code) { return {std::byte{code}}; }

Bytes concatenate(std::uint8_t code, std::initializer_list<Bytes> terms) {
  Bytes result = opcode(code);
  append(result, sequence(terms));
  return result;
}

/// PkgLength (ACPI 6.5, section 20.2.4) in front of the content; the length counts itself.
Bytes withLength(const Bytes& content) {
  Bytes result;
  const std::size_t size = content.size();
  if (size + 1 < 0x40) {
    append(result, static_cast<std::uint8_t>(size + 1));
  } else {
    // The first byte has the number of further bytes above the lowest four bits of the length.
    std::size_t more = 1;
    while (size + 1 + more >= std::size_t{1} << (4 + 8 * more)) more++;
    const std::size_t length = size + 1 + more;
    append(result, static_cast<std::uint8_t>(more << 6 | (length & 0xf)));
    for (std::size_t index = 0; index < more; index++) {
      append(result, static_cast<std::uint8_t>(length >> (4 + 8 * index) & 0xff));
    }
  }
  append(result, content);
  return result;
}

Bytes sized(std::uint8_t code, std::initializer_list<Bytes> terms) {
  Bytes result = opcode(code);
  append(result, withLength(sequence(terms)));
  return result;
}

/// A large resource descriptor: tag, 16-bit length, content.
Bytes largeDescriptor(std::uint8_t tag, const Bytes& content) {
  Bytes result = opcode(tag);
  append(result, static_cast<std::uint16_t>(content.size()));
  append(result, content);
  return result;
}

enum class Space : std::uint8_t { kMemory = 0, kIo = 1, kBus = 2 };

/// @tparam T width of the addresses
template <typename T>
Bytes addressSpace(std::uint8_t tag, Space space, std::uint8_t spaceFlags, T first, T last) {
  constexpr std::uint8_t kFixedEnds = 0x0c;
  Bytes content;
  append(content, space);
  append(content, kFixedEnds);
  append(content, spaceFlags);
  append(content, T{0});  // granularity
  append(content, first);
  append(content, last);
  append(content, T{0});  // translation
  append(content, static_cast<T>(last - first + 1));
  return largeDescriptor(tag, content);
}

unsigned hexDigit(char digit) { return static_cast<unsigned>(digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10); }

}  // namespace

Bytes sequence(std::initializer_list<Bytes> terms) {
  Bytes result;
  for (const Bytes& term : terms) append(result, term);
  return result;
}

Bytes integer(std::uint64_t value) {
  if (value == 0) return opcode(kZero);
  if (value == 1) return opcode(kOne);
  Bytes result;
  if (value <= 0xff) {
    result = opcode(kByte);
    append(result, static_cast<std::uint8_t>(value));
  } else if (value <= 0xffff) {
    result = opcode(kWord);
    append(result, static_cast<std::uint16_t>(value));
  } else if (value <= 0xffff'ffff) {
    result = opcode(kDword);
    append(result, static_cast<std::uint32_t>(value));
  } else {
    result = opcode(kQword);
    append(result, value);
  }
  return result;
}

Bytes string(std::string_view text) {
  Bytes result = opcode(kString);
  for (const char character : text) append(result, character);
  append(result, '\0');
  return result;
}

Bytes path(std::string_view path) {
  Bytes result;
  if (path.starts_with('\\')) {
    append(result, '\\');
    path.remove_prefix(1);
  }
  Bytes segments;
  std::uint8_t count = 0;
  while (!path.empty()) {
    const std::size_t dot = std::min(path.find('.'), path.size());
    std::string segment(path.substr(0, dot));
    segment.resize(4, '_');
    for (const char character : segment) append(segments, character);
    count++;
    path.remove_prefix(std::min(dot + 1, path.size()));
  }
  if (count == 0) append(result, std::uint8_t{0});  // NullName: the root itself
  if (count == 2) append(result, kDualName);
  if (count > 2) {
    append(result, kMultiName);
    append(result, count);
  }
  append(result, segments);
  return result;
}

Bytes eisaId(std::string_view id) {
  // Three letters of five bits, then four hexadecimal digits, big-endian.
  std::uint32_t value = 0;
  for (const char letter : id.substr(0, 3)) value = value << 5 | static_cast<std::uint32_t>(letter - 0x40);
  for (const char digit : id.substr(3, 4)) value = value << 4 | hexDigit(digit);
  return integer(__builtin_bswap32(value));
}

Bytes uuid(std::string_view text) {
  // The first three groups are little-endian.
  constexpr std::size_t kDigitOfByte[16] = {6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
  Bytes content;
  for (const std::size_t at : kDigitOfByte) {
    append(content, static_cast<std::uint8_t>(hexDigit(text.at(at)) << 4 | hexDigit(text.at(at + 1))));
  }
  return buffer(content);
}

Bytes buffer(const Bytes& content) { return sized(kBuffer, {integer(content.size()), content}); }

Bytes package(std::initializer_list<Bytes> elements) {
  return sized(kPackage, {opcode(static_cast<std::uint8_t>(elements.size())), sequence(elements)});
}

Bytes name(std::string_view at, const Bytes& value) { return concatenate(kName, {path(at), value}); }

Bytes scope(std::string_view at, std::initializer_list<Bytes> terms) {
  return sized(kScope, {path(at), sequence(terms)});
}

Bytes device(std::string_view at, std::initializer_list<Bytes> terms) {
  return concatenate(kExtended, {sized(kDevice, {path(at), sequence(terms)})});
}

Bytes method(std::string_view at, unsigned arguments, bool serialized, std::initializer_list<Bytes> terms) {
  const auto flags = static_cast<std::uint8_t>((arguments & 7) | (serialized ? 8U : 0U));
  return sized(kMethod, {path(at), opcode(flags), sequence(terms)});
}

Bytes argument(unsigned index) { return opcode(static_cast<std::uint8_t>(kArgument0 + index)); }

Bytes equal(const Bytes& left, const Bytes& right) { return concatenate(kEqual, {left, right}); }

Bytes ifTrue(const Bytes& condition, std::initializer_list<Bytes> terms) {
  return sized(kIf, {condition, sequence(terms)});
}

Bytes returns(const Bytes& value) { return concatenate(kReturn, {value}); }

Bytes notify(std::string_view at, std::uint64_t value) { return concatenate(kNotify, {path(at), integer(value)}); }

Bytes resourceTemplate(std::initializer_list<Bytes> descriptors) {
  Bytes content = sequence(descriptors);
  append(content, kEndTag);
  append(content, std::uint8_t{0});  // no checksum
  return buffer(content);
}

Bytes ioPorts(std::uint16_t start, std::uint8_t count) {
  constexpr std::uint8_t kDecodes16Bits = 1;
  Bytes result = opcode(kIoPorts);
  append(result, kDecodes16Bits);
  append(result, start);  // lowest
  append(result, start);  // highest
  append(result, std::uint8_t{1});
  append(result, count);
  return result;
}

Bytes edgeInterrupt(std::uint32_t gsi) {
  constexpr std::uint8_t kConsumerEdge = 0x03;
  Bytes content;
  append(content, kConsumerEdge);
  append(content, std::uint8_t{1});
  append(content, gsi);
  return largeDescriptor(kExtendedInterrupt, content);
}

Bytes fixedMemory32(std::uint32_t start, std::uint32_t size) {
  constexpr std::uint8_t kWritable = 1;
  Bytes content;
  append(content, kWritable);
  append(content, start);
  append(content, size);
  return largeDescriptor(kFixedMemory32, content);
}

Bytes busNumbers(std::uint16_t first, std::uint16_t last) {
  return addressSpace(kWordAddressSpace, Space::kBus, 0, first, last);
}

Bytes ioWindow(std::uint16_t first, std::uint16_t last) {
  constexpr std::uint8_t kEntireRange = 3;
  return addressSpace(kWordAddressSpace, Space::kIo, kEntireRange, first, last);
}

constexpr std::uint8_t kWritableNotCached = 1;

Bytes memoryWindow32(std::uint32_t first, std::uint32_t last) {
  return addressSpace(kDwordAddressSpace, Space::kMemory, kWritableNotCached, first, last);
}

Bytes memoryWindow64(std::uint64_t first, std::uint64_t last) {
  return addressSpace(kQwordAddressSpace, Space::kMemory, kWritableNotCached, first, last);
}

}  // namespace tshyve::acpi::aml
