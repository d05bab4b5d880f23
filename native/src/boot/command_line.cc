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

/// Calls `visit(word)` for the kernel's words until it returns true. @return where init's part begins (at its `--`)
template <typename Visit>
std::size_t forEachKernelWord(std::string_view line, Visit visit) {
  for (Word word = nextWord(line, 0); word.start < word.end; word = nextWord(line, word.end)) {
    const std::string_view text = line.substr(word.start, word.end - word.start);
    if (text == "--") return word.start;
    if (visit(text)) break;
  }
  return line.size();
}

}  // namespace

bool hasKernelParameter(std::string_view commandLine, std::string_view key) {
  bool found = false;
  forEachKernelWord(commandLine, [&](std::string_view word) { return found = word.starts_with(key); });
  return found;
}

std::string addKernelParameter(std::string_view commandLine, std::string_view parameter) {
  const std::size_t end = forEachKernelWord(commandLine, [](std::string_view) { return false; });
  std::string result(commandLine.substr(0, end));
  if (!result.empty() && result.back() != ' ') result += ' ';
  result += parameter;
  if (end < commandLine.size()) (result += ' ') += commandLine.substr(end);
  return result;
}

Result<std::string> guestCommandLine(std::string_view commandLine, std::uint64_t limit) {
  if (commandLine.find('\0') != std::string_view::npos) {
    return Error{ErrorCode::kInvalidArgument, "the kernel command line has a NUL in it"};
  }
  std::string line = hasKernelParameter(commandLine, "reboot=") ? std::string(commandLine)
                                                                : addKernelParameter(commandLine, "reboot=a");
  if (line.size() > limit) {
    return Error{ErrorCode::kInvalidArgument, "the kernel command line has " + std::to_string(line.size()) +
                                                  " bytes (with what was added), but this kernel takes at most " +
                                                  std::to_string(limit) + ": shorten it"};
  }
  return line;
}

}  // namespace tshyve::boot
