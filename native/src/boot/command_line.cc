#include "boot/command_line.h"

namespace tshyve::boot {
namespace {

struct Word {
  std::size_t start;
  std::size_t end;
};

/// The next word from here, split as the kernel's next_arg() does: white space outside double quotes.
Word nextWord(std::string_view line, std::size_t from) {
  const auto isSpace = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  while (from < line.size() && isSpace(line[from])) from++;
  Word word{from, from};
  bool quoted = false;
  for (; word.end < line.size() && (quoted || !isSpace(line[word.end])); word.end++) {
    if (line[word.end] == '"') quoted = !quoted;
  }
  return word;
}

}  // namespace

bool hasKernelParameter(std::string_view commandLine, std::string_view key) {
  for (Word word = nextWord(commandLine, 0); word.start < word.end; word = nextWord(commandLine, word.end)) {
    std::string_view text = commandLine.substr(word.start, word.end - word.start);
    if (text == "--") return false;
    if (text.starts_with('"')) text.remove_prefix(1);
    if (text.starts_with(key)) return true;
  }
  return false;
}

Result<std::string> guestCommandLine(std::string_view commandLine, std::uint64_t limit) {
  if (commandLine.find('\0') != std::string_view::npos) {
    return Error{ErrorCode::kInvalidArgument, "the kernel command line has a NUL in it"};
  }
  std::string line(commandLine);
  // In front: what stands behind `--`, or in a quotation that never ends, is not the kernel's.
  if (!hasKernelParameter(line, "reboot=")) line.insert(0, line.empty() ? "reboot=a" : "reboot=a ");
  if (line.size() > limit) {
    return Error{ErrorCode::kInvalidArgument, "the kernel command line has " + std::to_string(line.size()) +
                                                  " bytes (with what was added), but this kernel takes at most " +
                                                  std::to_string(limit) + ": shorten it"};
  }
  return line;
}

}  // namespace tshyve::boot
