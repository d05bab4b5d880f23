// Runs one machine with its console on standard input and output: for the lab's tests, for benchmarks and by hand.
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "base/event_fd.h"
#include "kvm/probe.h"
#include "machine/machine.h"

namespace tshyve {
namespace {

constexpr const char* kUsage =
    "usage: tshyve_run --kernel FILE [options]\n"
    "       tshyve_run --probe\n"
    "  --initrd FILE       initial RAM disk\n"
    "  --cmdline TEXT      kernel command line\n"
    "  --cpus N            default 1\n"
    "  --memory MIB        default 512\n"
    "  --disk FILE[,ro]    a raw disk; may be repeated\n"
    "  --net user | tap:NAME | stream:SOCKET | dgram:SOCKET[,LOCAL]\n"
    "                      a network interface; may be repeated\n"
    "  --forward [HOST:]PORT:GUESTPORT   from a host port to the first interface; may be repeated\n"
    "  --mac ADDRESS       of the interface last named\n"
    "  --vsock FOLDER      sockets of the guest as unix sockets\n"
    "  --share TAG:SOCKET  a folder that a virtiofsd serves; may be repeated\n"
    "  --save FOLDER       on SIGUSR1: save a snapshot there and end\n"
    "  --restore FOLDER    go on from a snapshot; needs the options it was started with\n"
    "  --no-seccomp --no-console --no-balloon\n"
    "signals: SIGTERM presses the power button, SIGQUIT or a second SIGTERM ends the machine at once\n"
    "exit codes: 0 the guest powered off, 1 error, 2 it asked for a restart, 3 it crashed, 4 it was ended\n";

constexpr int kExitError = 1;

struct Options {
  MachineConfig config;
  std::vector<ForwardConfig> forwards;
  std::string save;
  std::string restore;
  bool probe = false;
};

[[noreturn]] void fail(const std::string& message) {
  std::fprintf(stderr, "tshyve_run: %s\n", message.c_str());
  std::exit(kExitError);
}

std::uint64_t number(std::string_view text, const char* what) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) {
    fail(std::string(what) + ": \"" + std::string(text) + "\" is not a number");
  }
  return value;
}

/// Splits at the first separator; the second part is empty without one.
std::pair<std::string, std::string> split(const std::string& text, char separator) {
  const std::size_t at = text.find(separator);
  if (at == std::string::npos) return {text, ""};
  return {text.substr(0, at), text.substr(at + 1)};
}

DiskConfig disk(const std::string& text, std::size_t index) {
  const auto [path, mode] = split(text, ',');
  if (!mode.empty() && mode != "ro") fail("--disk: unknown option \"" + mode + "\"");
  DiskConfig config;
  config.id = "disk" + std::to_string(index);
  config.path = path;
  config.readOnly = mode == "ro";
  return config;
}

NetworkConfig network(const std::string& text, std::size_t index) {
  NetworkConfig config;
  config.mac = "52:54:00:12:34:" + std::to_string(56 + index);
  const auto [kind, rest] = split(text, ':');
  if (kind == "user") {
    config.backend = UserNetwork{"tshyve"};
  } else if (kind == "tap") {
    TapNetwork tap;
    tap.interfaceName = rest;
    config.backend = tap;
  } else if (kind == "stream") {
    config.backend = StreamNetwork{rest};
  } else if (kind == "dgram") {
    const auto [peer, local] = split(rest, ',');
    DatagramNetwork datagram;
    datagram.path = peer;
    datagram.localPath = local;
    config.backend = datagram;
  } else {
    fail("--net: unknown kind \"" + kind + "\"");
  }
  return config;
}

ForwardConfig forward(const std::string& text) {
  ForwardConfig config;
  config.hostAddress = "127.0.0.1";
  const std::size_t last = text.rfind(':');
  if (last == std::string::npos) fail("--forward: expected [HOST:]PORT:GUESTPORT");
  config.guestPort = static_cast<std::uint16_t>(number(text.substr(last + 1), "--forward"));
  const std::string host = text.substr(0, last);
  const std::size_t colon = host.rfind(':');
  if (colon != std::string::npos) config.hostAddress = host.substr(0, colon);
  config.hostPort =
      static_cast<std::uint16_t>(number(colon == std::string::npos ? host : host.substr(colon + 1), "--forward"));
  return config;
}

Options parse(int argc, char** argv) {
  enum Name : int {
    kKernel = 256,
    kInitrd,
    kCmdline,
    kCpus,
    kMemory,
    kDisk,
    kNet,
    kForward,
    kMac,
    kVsock,
    kShare,
    kSave,
    kRestore,
    kProbe,
    kNoSeccomp,
    kNoConsole,
    kNoBalloon,
    kHelp
  };
  static constexpr std::array<option, 19> kOptions{{{"kernel", required_argument, nullptr, kKernel},
                                                    {"initrd", required_argument, nullptr, kInitrd},
                                                    {"cmdline", required_argument, nullptr, kCmdline},
                                                    {"cpus", required_argument, nullptr, kCpus},
                                                    {"memory", required_argument, nullptr, kMemory},
                                                    {"disk", required_argument, nullptr, kDisk},
                                                    {"net", required_argument, nullptr, kNet},
                                                    {"forward", required_argument, nullptr, kForward},
                                                    {"mac", required_argument, nullptr, kMac},
                                                    {"vsock", required_argument, nullptr, kVsock},
                                                    {"share", required_argument, nullptr, kShare},
                                                    {"save", required_argument, nullptr, kSave},
                                                    {"restore", required_argument, nullptr, kRestore},
                                                    {"probe", no_argument, nullptr, kProbe},
                                                    {"no-seccomp", no_argument, nullptr, kNoSeccomp},
                                                    {"no-console", no_argument, nullptr, kNoConsole},
                                                    {"no-balloon", no_argument, nullptr, kNoBalloon},
                                                    {"help", no_argument, nullptr, kHelp},
                                                    {nullptr, 0, nullptr, 0}}};
  Options options;
  MachineConfig& config = options.config;
  config.name = "tshyve-run";
  config.uuid = "00000000-0000-4000-8000-000000000000";
  config.memoryBytes = 512ULL << 20;
  for (;;) {
    const int name = ::getopt_long(argc, argv, "", kOptions.data(), nullptr);
    if (name < 0) break;
    const std::string value = optarg == nullptr ? "" : optarg;
    switch (name) {
      case kKernel:
        config.boot.kernel = value;
        break;
      case kInitrd:
        config.boot.initrd = value;
        break;
      case kCmdline:
        config.boot.commandLine = value;
        break;
      case kCpus:
        config.cpus = static_cast<std::uint32_t>(number(value, "--cpus"));
        break;
      case kMemory:
        config.memoryBytes = number(value, "--memory") << 20;
        break;
      case kDisk:
        config.disks.push_back(disk(value, config.disks.size()));
        break;
      case kNet:
        config.networks.push_back(network(value, config.networks.size()));
        break;
      case kForward:
        options.forwards.push_back(forward(value));
        break;
      case kMac:
        if (config.networks.empty()) fail("--mac: name an interface first (--net)");
        config.networks.back().mac = value;
        break;
      case kVsock: {
        VsockConfig vsock;
        vsock.directory = value;
        config.vsock = vsock;
        break;
      }
      case kShare: {
        const auto [tag, socket] = split(value, ':');
        config.shares.push_back({tag, socket});
        break;
      }
      case kSave:
        options.save = value;
        break;
      case kRestore:
        options.restore = value;
        break;
      case kProbe:
        options.probe = true;
        break;
      case kNoSeccomp:
        config.seccomp = false;
        break;
      case kNoConsole:
        config.console = false;
        break;
      case kNoBalloon:
        config.balloon = false;
        break;
      case kHelp:
        std::fputs(kUsage, stdout);
        std::exit(0);
      default:
        std::fputs(kUsage, stderr);
        std::exit(kExitError);
    }
  }
  if (optind < argc) fail(std::string("unknown argument ") + argv[optind]);
  if (!options.probe && config.boot.kernel.empty()) fail("--kernel is missing; see --help");
  return options;
}

/// Gives the terminal its old settings back in the end.
class RawTerminal {
 public:
  RawTerminal() {
    if (::isatty(STDIN_FILENO) == 0 || ::tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios raw = before_;
    ::cfmakeraw(&raw);
    active_ = ::tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal() {
    if (active_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }

 private:
  termios before_{};
  bool active_ = false;
};

/// Standard output of a test may be slow; dropping nothing is worth waiting for here, unlike in the supervisor.
void writeOut(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(STDOUT_FILENO, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

int exitCode(ExitReason reason) {
  switch (reason) {
    case ExitReason::kShutdown:
      return 0;
    case ExitReason::kReset:
      return 2;
    case ExitReason::kCrashed:
      return 3;
    case ExitReason::kKilled:
      return 4;
  }
  return kExitError;
}

int showProbe() {
  const kvm::ProbeResult result = kvm::probe();
  std::printf("usable %s, %.1f million instructions a second, %lld us%s%s\n", result.usable() ? "yes" : "no",
              result.instructionsPerSecond / 1e6, static_cast<long long>(result.duration.count()),
              result.reason.empty() ? "" : ": ", result.reason.c_str());
  return result.usable() ? 0 : kExitError;
}

int run(const Options& options) {
  // Blocked before any thread starts: all of them arrive at the descriptor.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGQUIT, SIGINT, SIGUSR1}) sigaddset(&signals, signal);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  const UniqueFd signalFd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  const auto exitEvent = EventFd::create();
  if (!signalFd || !exitEvent) fail(Error::fromErrno("signalfd or eventfd").message);

  std::atomic<int> code{-1};
  const EventSink sink = [&](MachineEvent event) {
    if (const auto* output = std::get_if<ConsoleOutput>(&event)) {
      writeOut(output->bytes);
    } else if (const auto* line = std::get_if<MachineLog>(&event)) {
      std::fprintf(stderr, "tshyve_run: %s\r\n", line->line.c_str());
    } else if (const auto* address = std::get_if<AddressAssigned>(&event)) {
      std::fprintf(stderr, "tshyve_run: interface %u has address %s\r\n", address->nic, address->address.c_str());
    } else if (const auto* exited = std::get_if<MachineExited>(&event)) {
      std::fprintf(stderr, "tshyve_run: %s\r\n", exited->detail.c_str());
      code = exitCode(exited->reason);
      exitEvent->signal();
    }
  };
  auto built = options.restore.empty() ? Machine::create(options.config, sink)
                                       : Machine::restore(options.config, options.restore, sink);
  if (!built) fail(built.error().message);
  const std::unique_ptr<Machine> machine = *std::move(built);
  for (const ForwardConfig& forward : options.forwards) {
    const auto port = machine->addForward(0, forward);
    if (!port) fail(port.error().message);
    std::fprintf(stderr, "tshyve_run: port %u leads to the guest's %u\r\n", unsigned{*port},
                 unsigned{forward.guestPort});
  }
  const RawTerminal terminal;
  if (const auto started = machine->start(); !started) fail(started.error().message);

  int stops = 0;
  std::array<pollfd, 3> polled{{{exitEvent->fd(), POLLIN, 0}, {signalFd.get(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}}};
  while (code < 0) {
    if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) break;
    signalfd_siginfo info{};
    while (::read(signalFd.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGUSR1 && !options.save.empty()) {
        auto saved = machine->pause();
        if (saved) saved = machine->save(options.save);
        std::fprintf(stderr, "tshyve_run: %s\r\n", saved ? "saved" : saved.error().message.c_str());
        if (saved) machine->stop();
      } else if (info.ssi_signo == SIGTERM && stops++ == 0) {
        static_cast<void>(machine->pressPowerButton());
      } else if (info.ssi_signo != SIGUSR1) {
        machine->stop();
      }
    }
    if ((polled[2].revents & (POLLIN | POLLHUP)) != 0) {
      std::array<std::byte, 512> input;
      const ssize_t count = ::read(STDIN_FILENO, input.data(), input.size());
      if (count <= 0) polled[2].fd = -1;
      if (count > 0) {
        const auto written = machine->writeConsole(std::span(input).first(static_cast<std::size_t>(count)));
        if (!written) std::fprintf(stderr, "tshyve_run: %s\r\n", written.error().message.c_str());
      }
    }
  }
  return code;
}

}  // namespace
}  // namespace tshyve

int main(int argc, char** argv) {
  const tshyve::Options options = tshyve::parse(argc, argv);
  return options.probe ? tshyve::showProbe() : tshyve::run(options);
}
